#!/bin/sh
# The real SIP clients that the tests call. Installed through apt where we may; without them those tests skip and say so.
missing=""
command -v sipp >/dev/null 2>&1 || missing="$missing sip-tester"
command -v baresip >/dev/null 2>&1 || missing="$missing baresip-core"
[ -z "$missing" ] && exit 0
if command -v apt-get >/dev/null 2>&1; then
    root=""
    [ "$(id -u)" = 0 ] || root="sudo -n"
    echo "installing$missing"
    $root apt-get update -qq >/dev/null 2>&1
    # shellcheck disable=SC2086
    $root apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 && exit 0
fi
echo "tests with real SIP clients will be skipped; to run them: apt-get install$missing" >&2
exit 0
