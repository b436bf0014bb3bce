# shellcheck shell=bash
# Sourced by scripts that fetch packages of another suite of Debian than the machine's own.
#
# The machine's lists and sources stay as they are: a suite added there would change what it installs.

readonly ARCHIVE_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# The address of the Debian archive that the machine is set up to use: a mirror near it, perhaps the only one it reaches.
archive_address() {
    # shellcheck disable=SC2016  # the $(...) are apt's own
    apt-get indextargets --format '$(REPO_URI) $(LABEL)' 'Created-By: Packages' |
        awk 'NF == 2 && $2 == "Debian" && !found++ { print $1 }'
}

# A freshly made container has no package lists at all. What goes wrong shows in what needs them.
archive_ensure_lists() {
    [[ -n $(archive_address) ]] || apt-get -q update >/dev/null 2>&1 || true
}

# archive_use_suite SUITE DIR: sets apt_options to a private apt setup below DIR that knows one suite only.
archive_use_suite() {
    local suite=$1 state=$2 address
    address=$(archive_address)
    [[ -n $address ]] || return 1
    mkdir -p "$state/lists" "$state/cache"
    printf 'deb [signed-by=%s] %s %s main\n' "$ARCHIVE_KEYRING" "$address" "$suite" >"$state/sources.list"
    # shellcheck disable=SC2034 # it is the caller's
    apt_options=(
        -o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$state/lists" -o "Dir::Cache=$state/cache"
        # The unprivileged user that apt switches to can't enter a temporary directory of ours.
        -o APT::Sandbox::User=root
    )
    apt-get -q "${apt_options[@]}" update >"$state/log" 2>&1
}
