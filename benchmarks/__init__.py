"""What Outlast costs, each figure against the limit it cannot pass, measured in the same run."""
