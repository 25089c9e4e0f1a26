#!/bin/sh
# Installs Debian's OpenSSH server, for a test that starts one of its own; the system's is not
# started. Needs root.
set -eu
PATH=$PATH:/usr/sbin
! command -v sshd >/dev/null || exit 0
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then # else the package would start its own daemon
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
  trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
install="apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends openssh-server"
$install >/dev/null 2>&1 || { apt-get -qq update && $install >/dev/null; }
