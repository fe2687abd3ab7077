# ---- from here on it is the same for all runs

cd "$(dirname "$0")" || exit
exec 9> "${TMPDIR:-/tmp}/wanwrap-start.lock"
flock -n 9 || { echo "a start script is at work already"; exit 1; }
exec > >(tee -a start.log 9>&-) 2>&1
wait_for_you() { # a start command that exits is started again, and billed
    exec 9>&-
    exec sleep infinity
}
if [ -e ended ]; then
    echo "This run has ended before, with $(cat ended). Fetch results.tar, or go on: rm ended && bash $0"
    echo "The pod costs until you end it."
    wait_for_you
fi
rm -f results.tar # an earlier one, of less
while IFS= read -r -d '' pair; do # a session over SSH lacks what the pod was given
    [[ $pair =~ ^(RUNPOD_|CONTAINER_|WANWRAP_|WANDB_|HF_TOKEN=) ]] && export "${pair?}"
done 2> /dev/null < /proc/1/environ
uploads=$PWD/uploads deadline=$PWD/deadline
export HF_HOME=$PWD/hf
touch minutes # in which this was at work, before a restart of the pod too
while sleep 60; do echo >> minutes; done 9>&- &
clock=$!
echo $(($(date +%s) + seconds - 60 * $(wc -l < minutes))) > deadline

placed "${places[@]}" && ready && again "$setup_mistakes" wanwrap setup "${setup[@]}" &&
    again "$mistakes" wanwrap run "${run[@]}"
code=$?
echo "ended with $code, $(date)"
if [ -d "local_training/outputs/$name" ]; then
    cp start.log "local_training/outputs/$name/pod.log"
    tar -cf results.tar.part -C local_training/outputs "./$name" && mv results.tar.part results.tar ||
        { echo "results.tar could not be written"; [ -z "$destroys" ] || end=; }
fi
kill "$clock"
rm deadline minutes
echo "$code" > ended
if [ "$end" ]; then
    echo "+ $end"
    bash -c "$end"
    sleep 60
fi
echo "The pod runs still, and costs: fetch results.tar, then end it."
wait_for_you
