limited() { # a command, until the time that stands in the file $deadline; then wanwrap is told to end, and nothing is lost
    local left=$(($(cat "$deadline") - $(date +%s)))
    [ "$left" -gt 0 ] || return 124
    timeout --foreground --signal=TERM --kill-after=120 "$left" "$@"
}
again() { # the same, four times at most; $1 are exit codes that another try doesn't mend, 130 is somebody who has stopped it
    local try code never=" 0 124 130 $1 "
    shift
    for try in 1 2 3 4; do
        limited "$@"
        code=$?
        [ "$code" = 124 ] && echo "the hours are over"
        case "$never" in *" $code "*) return "$code" ;; esac
        echo "try $try of 4 ended with $code: $1"
        sleep 30
    done
    return "$code"
}
