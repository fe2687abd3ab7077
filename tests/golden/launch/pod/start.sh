#!/bin/bash
# cats-t2v-vanilla on a pod that you rent: RunPod, Vast, or any Linux with an NVIDIA GPU. Its page tells HOST and PORT.
#
# 1. Rent 1 A100-80GB with 24 GB of RAM, 250 GB of disk below /workspace that outlives a stop (RunPod: volume disk), and
#    an Ubuntu with SSH: RunPod's PyTorch template, on Vast nvidia/cuda:12.4.1-base-ubuntu22.04, or the image
#    that Dockerfile beside this file makes.
#    Give it HF_TOKEN in its environment, as one of the provider's secrets.
# 2. Upload. What you have deleted here since the last time, delete there too.
#      ssh -p PORT root@HOST mkdir -p /workspace/cats-t2v-vanilla/uploads/1 /workspace/cats-t2v-vanilla/uploads/2
#      scp -P PORT /here/local_training/outputs/cats-t2v-vanilla/launch/start.sh root@HOST:/workspace/cats-t2v-vanilla/
#      scp -r -P PORT '/here/pictures/my cats' root@HOST:/workspace/cats-t2v-vanilla/uploads/1/
#      scp -r -P PORT /here/local_training/outputs/cats-t2v-vanilla/launch/wanwrap-0.2.0-py3-none-any.whl root@HOST:/workspace/cats-t2v-vanilla/uploads/2/
# 3. Start. It goes on when you log out. After a restart of the pod the same command goes on; the image of Dockerfile
#    does so by itself.
#      ssh -p PORT root@HOST 'cd /workspace/cats-t2v-vanilla && nohup bash start.sh < /dev/null > /dev/null 2>&1 &'
# 4. Follow; or end it early, with what it has.
#      ssh -p PORT root@HOST tail -f /workspace/cats-t2v-vanilla/start.log
#      ssh -p PORT root@HOST 'cd /workspace/cats-t2v-vanilla && PATH=venv/bin:/opt/venv/bin:$PATH wanwrap stop'
# 5. Fetch, once results.tar is there: it is whole. A pod that had ended its run only waits when it is started again.
#      scp -P PORT root@HOST:/workspace/cats-t2v-vanilla/results.tar .
#      tar -xf results.tar -C /here/local_training/outputs
#
# The run ends after 12 hours at the latest; then `runpodctl stop pod $RUNPOD_POD_ID` ends the pod.

end='runpodctl stop pod $RUNPOD_POD_ID'
destroys=''
setup=(t2v-vanilla)
run=(t2v-vanilla cats --epochs 30)
mistakes='2 3 4 5 6 7 8 9 11 13'
setup_mistakes='2 3 4 5 7 9 11 13'
name=cats-t2v-vanilla
seconds=43200
wheel=wanwrap-0.2.0-py3-none-any.whl
places=('1/my cats' local_training/datasets/cats 2/wanwrap-0.2.0-py3-none-any.whl wanwrap-0.2.0-py3-none-any.whl)

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
placed() { # what was uploaded, where the run looks for it: pairs of names below $uploads, and places
    while [ $# -gt 0 ]; do
        [ -e "$uploads/$1" ] || { echo "$uploads/$1 is not there: upload it first"; return 1; }
        mkdir -p "$(dirname "$2")" && ln -sfnT "$uploads/$1" "$2" || return
        shift 2
    done
}
ready() { # what a bare image lacks, and wanwrap in an environment of its own: only what is not there
    local packages=(git ca-certificates python3 python3-venv python3-dev build-essential libgl1 libglib2.0-0)
    local root=()
    [ "$(id -u)" = 0 ] || root=(sudo)
    if ! dpkg -s "${packages[@]}" > /dev/null 2>&1; then
        again "" "${root[@]}" apt-get update -qq || return
        again "" "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" || return
    fi
    PATH=$PWD/venv/bin:/opt/venv/bin:$PATH # the second is the Dockerfile's
    wanwrap --help > /dev/null 2>&1 || python3 -m venv --clear venv || return
    again "" pip install --quiet "./$wheel" || return
    again "" pip install --quiet --force-reinstall --no-deps "./$wheel" # of two of one version the new one counts
}
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
