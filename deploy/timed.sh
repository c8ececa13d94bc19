#!/usr/bin/env bash
# Cargo's runner of test programs for deploy/test.sh: notes in $KONTIKI_TIMES how long each took.
since=${EPOCHREALTIME/[.,]/}
"$@"
ended=$?
name=$(basename "$1")
printf '%8.1f s  %s %s\n' "$(((${EPOCHREALTIME/[.,]/} - since) / 100000))e-1" "${CARGO_PKG_NAME-}" "${name%-*}" >>"$KONTIKI_TIMES"
exit $ended
