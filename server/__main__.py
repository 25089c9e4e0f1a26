"""`python -m server` in a checkout does what `outlast` does."""

from server.launch import main

main()
