#!/usr/bin/env bash
# Cargo's runner of test programs for deploy/test.sh: notes in $KONTIKI_TIMES how long each took, and in
# $KONTIKI_FAILED how one ended that failed.
since=${EPOCHREALTIME/[.,]/}
"$@"
ended=$?
name=$(basename "$1")
program="${CARGO_PKG_NAME-} ${name%-*}"
printf '%8.1f s  %s\n' "$(((${EPOCHREALTIME/[.,]/} - since) / 100000))e-1" "$program" >>"$KONTIKI_TIMES"
if [ $ended != 0 ]; then
  echo "  $program: exit code $ended" >>"$KONTIKI_FAILED"
fi
exit $ended
