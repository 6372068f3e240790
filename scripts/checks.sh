# Sourced by test scripts that go through commands as a user types them. Each check is one line of output, and the number of those that
# failed is what the script ends with. $work is the script's folder.

failed=0 checks=0

# check WHAT COMMAND...: the command must succeed.
check() {
  local what=$1 rc=0 said
  shift
  checks=$((checks + 1))
  "$@" > "$work/check.out" 2>&1 || rc=$?
  if [ $rc = 0 ]; then
    echo "ok      $what"
  else
    failed=$((failed + 1))
    echo "FAILED  $what (exit code $rc)"
    for said in "$work/check.out" "$work/make.out"; do
      [ ! -e "$said" ] || grep -m 3 -A 4 "panicked at" "$said" | sed 's/^/          /' || true
      [ ! -e "$said" ] || tail -n 20 "$said" | sed 's/^/          /'
    done
  fi
}
refuses() { ! "$@"; }

# within SECONDS COMMAND...: it succeeds in time.
within() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" > /dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || { "$@"; return 1; }
    sleep 0.2
  done
}

# What a script of checks ends with.
summary() {
  echo "$checks checks, $failed failed"
  [ $failed = 0 ]
}
