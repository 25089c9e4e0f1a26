#!/bin/sh
# The programs that the bundled manifests run: Debian's by apt (as root, or with sudo), the others
# into .venv. Each is skipped by the tests when it is missing.
set -eu
cd "$(dirname "$0")/../.."

missing=""
command -v gmx >/dev/null || missing="$missing gromacs"
command -v xtb >/dev/null || missing="$missing xtb"
command -v pw.x >/dev/null || missing="$missing quantum-espresso"
command -v ccx >/dev/null || missing="$missing calculix-ccx"
if [ -n "$missing" ]; then
  if ! command -v apt-get >/dev/null; then
    echo "error: install these with your package manager:$missing" >&2
    exit 1
  fi
  as_root=""
  [ "$(id -u)" = 0 ] || as_root="sudo"
  echo "Installing$missing ..."
  $as_root apt-get update -qq
  # shellcheck disable=SC2086 # several words are meant
  DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
.venv/bin/pip install -qq --disable-pip-version-check --retries 5 -e '.[science]'
