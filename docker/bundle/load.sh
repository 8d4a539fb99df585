#!/bin/sh
# Verifies this bundle, then loads its images and fills its volumes. Needs sh, coreutils or busybox, and Docker;
# no network. What is loaded already is not loaded again, so it may be interrupted and repeated.
#   sh load.sh [FOLDER]   the stacks are copied to FOLDER/NAME; without FOLDER to $HOME/ernie/NAME
#   sh load.sh --verify   verifies alone, without Docker
# Weights go to the volumes that the stacks name, or to HF_CACHE_DIR and PACKAGES_DIR where these are set.
set -eu
umask 022
LC_ALL=C
export LC_ALL
tab=$(printf '\t')

die() {
    printf 'error: %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf '  next:  %s\n' "$2" >&2
    exit 1
}

need() {
    command -v "$1" >/dev/null 2>&1 || die "$1 is not on this machine's PATH." "$2"
}

# --- verify: names first, so that nothing outside this folder is read ---

names() { cut -c67- SHA256SUMS; }

require_names() {
    [ -f SHA256SUMS ] || die "There is no SHA256SUMS here, so this bundle is not complete." \
        "copy it again; where it was made, the command of ernie-deploy goes on"
    if grep -qvE '^[0-9a-f]{64}  [A-Za-z0-9_.+@-]+(/[A-Za-z0-9_.+@-]+)*$' SHA256SUMS ||
        names | grep -qE '(^|/)\.{1,2}(/|$)' || [ -n "$(names | sort | uniq -d)" ]; then
        die "SHA256SUMS has a line that the kit did not write." "have the bundle made again; load nothing of this one"
    fi
    odd=$(find . ! -type f ! -type d | head -n 1)
    [ -z "$odd" ] || die "$odd is a link or a device." "copy the bundle again; it has none"
    # What nobody listed would be copied with its stack, an override for one.
    find . -type f ! -path ./SHA256SUMS ! -path ./.ernie-bundle.jsonl | sed 's|^\./||' | while IFS= read -r file; do
        names | grep -qxF -- "$file" && continue
        printf 'extra    %s\n' "$file" >&2
        case $file in stacks/*) exit 1 ;; esac
    done || die "A stack of this bundle has a file that does not belong to it." "remove the file that is named above"
}

verify() {
    require_names
    total=$(names | wc -l) number=0 wrong=0
    total=$((total))
    while IFS= read -r line; do
        number=$((number + 1)) name=${line#*  }
        [ ! -t 2 ] || printf '\r\033[Kverify   %s of %s  %.60s' "$number" "$total" "$name" >&2
        if [ ! -f "$name" ]; then
            fault=missing
        elif [ "$(sha256sum "./$name" | cut -c1-64)" != "${line%%  *}" ]; then
            fault=wrong
        else
            continue
        fi
        wrong=$((wrong + 1))
        [ ! -t 2 ] || printf '\r\033[K' >&2
        printf '%-8s %s\n' "$fault" "$name" >&2
    done <SHA256SUMS
    [ ! -t 2 ] || printf '\r\033[K' >&2
    [ "$wrong" = 0 ] || die "$wrong of $total files are not as they were written; nothing was loaded." \
        "copy the files that are named above again"
    printf 'verified %s files\n' "$total"
}

# --- load ---

# A part that was split is joined on the way: no second copy on any disk.
join() {
    if [ "$2" = 1 ]; then
        cat "./$1"
        return
    fi
    piece=0
    while [ "$piece" -lt "$2" ]; do
        cat "./$1.$(printf %04d "$piece")" || return 1
        piece=$((piece + 1))
    done
}

load_image() {
    name=$1 id=$2 path=$3 pieces=$4
    if [ "$(docker image inspect --format '{{.Id}}' "$name" 2>/dev/null)" = "$id" ]; then
        printf 'image    %s is here already\n' "$name"
        return
    fi
    answer=$(join "$path" "$pieces" | docker load) || die "Docker did not load $path." \
        "see that its disk has room: docker system df"
    case $answer in
        *'Loaded image ID: '*) docker tag "${answer##*'Loaded image ID: '}" "$name" ;;
    esac
    docker image inspect "$name" >/dev/null 2>&1 || die "$path did not bring $name." "report it, with: docker version"
    printf 'image    %s\n' "$name"
}

# in_volume MOUNT IMAGE CODE ARGUMENTS: a shell that sees one volume and nothing else.
in_volume() {
    mount=$1 image=$2 code=$3
    shift 3
    docker run --rm -i --pull never --network none --log-driver none --user 0:0 --read-only --cap-drop ALL \
        --cap-add CHOWN --cap-add DAC_OVERRIDE --cap-add FOWNER --security-opt no-new-privileges \
        -v "$mount:/out" --entrypoint sh "$image" -c "umask 022; cd /out; $code" sh "$@"
}

make_volume() {
    key=$1 mount=$2 project=$3 volume=$4 holds=$5 image=$6
    case $key in
        weights) mount=${HF_CACHE_DIR:-$mount} ;;
        packages) mount=${PACKAGES_DIR:-$mount} ;;
    esac
    case $mount in
        /*) ;;
        */* | .*) die "$mount is no absolute path." "set HF_CACHE_DIR and PACKAGES_DIR to absolute paths" ;;
        *) docker volume inspect "$mount" >/dev/null 2>&1 ||
            docker volume create --label "com.docker.compose.project=$project" \
                --label "com.docker.compose.volume=$volume" --label "ernie-deploy.holds=$holds" "$mount" >/dev/null ;;
    esac
    # shellcheck disable=SC2016 # for the container's shell
    there=$(in_volume "$mount" "$image" 'find . -type f -exec stat -c "%s %n" {} +' </dev/null) ||
        die "$mount could not be looked at with $image." "see what Docker says above"
}

fill() {
    target=$1 size=$2 path=$3 pieces=$4
    if printf '%s\n' "$there" | grep -qxF -- "$size ./$target"; then
        printf 'volume   %s has %s\n' "$mount" "$target"
        return
    fi
    # shellcheck disable=SC2016 # for the container's shell
    join "$path" "$pieces" | in_volume "$mount" "$image" \
        'mkdir -p "$(dirname "$1")" && cat >"$1.part" && [ "$(stat -c %s "$1.part")" = "$2" ] && mv "$1.part" "$1"' \
        "$target" "$size" || die "$target could not be written to $mount." "see that its disk has room; then repeat"
    printf 'volume   %s: %s\n' "$mount" "$target"
}

copy_stack() {
    name=$1
    mkdir -p "$folder"
    if [ -e "$folder/$name" ]; then
        cmp -s "stacks/$name/$2" "$folder/$name/$2" || die "$folder/$name is there, and is not this bundle's stack." \
            "name another folder: sh load.sh FOLDER"
        printf 'stack    %s is there, and stays as it is\n' "$folder/$name"
        return
    fi
    rm -rf "$folder/.$name.part"
    cp -R "stacks/$name" "$folder/.$name.part"
    mv "$folder/.$name.part" "$folder/$name"
    printf 'stack    %s\n' "$folder/$name"
}

# Reads its table on descriptor 3: what runs in here may read standard input.
load() {
    while IFS=$tab read -r kind a b c d e f <&3; do
        case $kind in
            image) load_image "$a" "$b" "$c" "$d" ;;
            volume) make_volume "$a" "$b" "$c" "$d" "$e" "$f" ;;
            file) fill "$a" "$b" "$c" "$d" ;;
            links) in_volume "$mount" "$image" 'tar -xf -' <"./$a" || die "$a could not be unpacked into $mount." ;;
            owner)
                # shellcheck disable=SC2016 # for the container's shell
                in_volume "$mount" "$image" 'find "$2" -user 0 -exec chown -h "$1" {} +' "$a" "$b" </dev/null ||
                    die "$b in $mount could not be given to user $a." ;;
            stack) copy_stack "$a" "$b" ;;
        esac
    done 3<CONTENTS
}

next_steps() {
    printf 'loaded; next:\n'
    [ -z "${HF_CACHE_DIR:-}" ] || printf '  write HF_CACHE_DIR=%s to .env of each stack\n' "$HF_CACHE_DIR"
    [ -z "${PACKAGES_DIR:-}" ] || printf '  write PACKAGES_DIR=%s to .env of each stack\n' "$PACKAGES_DIR"
    while IFS=$tab read -r kind a b c; do
        case $kind in
            secret) printf '  put the secret %s of %s into %s\n' "$b" "$a" "$c" ;;
            note) printf '  %s\n' "$a" ;;
            stack) printf '  cd %s && docker compose up -d --wait\n' "$folder/$a" ;;
        esac
    done <CONTENTS
}

case ${1:-} in
    --verify) folder= ;;
    -*) die "There is no option $1." "sh load.sh [FOLDER], or sh load.sh --verify" ;;
    *) folder=${1:-${HOME:-}/ernie} ;;
esac
case $folder in
    '' | /*) ;;
    *) folder=$(pwd)/$folder ;;
esac
cd "$(dirname "$0")"
need sha256sum "install coreutils or busybox"
verify
[ -n "$folder" ] || exit 0
need docker "install Docker Engine 20.10 or newer with the Compose plugin"
docker version >/dev/null 2>&1 || die "Docker does not answer." "start it; then: docker version"
load
next_steps
