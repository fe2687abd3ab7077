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
