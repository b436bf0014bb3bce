# shellcheck shell=bash
# Sourced by the scripts that run the sidecar: installs what it and its lab need, on Debian 12.
#
#   setup_environment [EXTRA]
#
# installs missing Debian packages, and the project with its EXTRA ("test", for example) in the virtual environment
# .venv of the checkout; for tests it also fetches releases of Open vSwitch and OVN. It prints a line for each step, and
# so nothing if nothing is missing. On failure it prints one line on standard error and returns 1. An Open vSwitch of
# the machine is left alone; one that comes with the packages is neither started nor enabled.
#
#   setup_checks
#
# installs the project alone, with what its tests need: neither Debian packages nor a switch, and so without root.
#
#   setup_help ARGUMENT...
#
# prints the comment at the head of the running script and ends the script, if the first argument is --help.

SETUP_CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly SETUP_CHECKOUT
readonly SETUP_VENV=$SETUP_CHECKOUT/.venv
readonly SETUP_PACKAGES=(openvswitch-switch python3-bpfcc python3-openvswitch iproute2 tcpdump iperf3
    iputils-ping ethtool python3-venv python3-pip)
# The unit's tests run one beside the machine's init.
readonly SETUP_TEST_PACKAGES=(systemd)
# Debian's package scripts ask this program whether they may start or stop a service; 101 means no.
readonly SETUP_POLICY=/usr/sbin/policy-rc.d
readonly SETUP_FORBIDDEN=101

setup_help() {
    if [[ ${1-} == -h || ${1-} == --help ]]; then
        sed -n '2,/^set/s/^# \?//p' "$SETUP_CHECKOUT/scripts/${0##*/}"
        exit
    fi
}

setup_environment() {
    if ((EUID != 0)); then
        setup_fail 'root is needed: for network namespaces, eBPF and Open vSwitch'
        return
    fi
    setup_debian_packages "${1:-}" && setup_venv && setup_project "${1:-}" &&
        if [[ ${1:-} == test ]]; then
            setup_ovs_releases
        fi
}

setup_checks() {
    setup_venv && setup_project test
}

setup_debian_packages() {
    local missing wanted=("${SETUP_PACKAGES[@]}")
    [[ $1 != test ]] || wanted+=("${SETUP_TEST_PACKAGES[@]}")
    read -ra missing <<<"$(setup_missing_packages "${wanted[@]}")"
    ((${#missing[@]})) || return 0
    if ! type -P apt-get >/dev/null; then
        setup_fail "this is no Debian; please install the like of: ${missing[*]}"
        return
    fi
    setup_quietly 'updating the list of Debian packages' apt-get update &&
        setup_without_services "installing Debian packages: ${missing[*]}" \
            env DEBIAN_FRONTEND=noninteractive \
            apt-get install --yes --no-install-recommends "${missing[@]}" &&
        if [[ " ${missing[*]} " == *' openvswitch-switch '* ]]; then
            setup_disable_new_switch
        fi
}

# Prints those of the packages that are not installed, on one line.
setup_missing_packages() {
    local installed package
    # shellcheck disable=SC2016 # the variables are dpkg-query's
    installed=$(dpkg-query --show --showformat '${Package}=${db:Status-Status}\n' \
        "$@" 2>/dev/null)
    for package; do
        [[ $'\n'$installed$'\n' == *$'\n'"$package=installed"$'\n'* ]] || printf '%s ' "$package"
    done
}

# setup_without_services WHAT CMD...: as setup_quietly, with no service started, stopped or restarted.
setup_without_services() (
    if [[ -e $SETUP_POLICY ]]; then
        # Someone else's stays as it is; it has to say what ours would.
        "$SETUP_POLICY" openvswitch-switch start >/dev/null 2>&1
        if (($? != SETUP_FORBIDDEN)); then
            setup_fail "$SETUP_POLICY lets services start, so please do this by hand: $1"
            return
        fi
    else
        trap 'rm -f "$SETUP_POLICY"' EXIT
        trap 'exit 1' HUP INT TERM
        printf '#!/bin/sh\nexit %d\n' "$SETUP_FORBIDDEN" >"$SETUP_POLICY" &&
            chmod 755 "$SETUP_POLICY" || return
    fi
    setup_quietly "$@"
)

# The package enables its services for the next boot; the lab runs a switch of its own.
setup_disable_new_switch() {
    if type -P systemctl >/dev/null; then
        setup_quietly 'leaving the Open vSwitch service disabled' \
            systemctl disable openvswitch-switch.service ovs-record-hostname.service
    else
        setup_quietly 'leaving the Open vSwitch service disabled' \
            update-rc.d openvswitch-switch disable
    fi
}

setup_venv() {
    # It breaks when the checkout is moved or Python is replaced by another version.
    if [[ $(setup_venv_prefix) == "$SETUP_VENV" ]]; then
        return 0
    fi
    setup_quietly 'creating .venv' \
        /usr/bin/python3 -m venv --clear --system-site-packages "$SETUP_VENV"
}

setup_venv_prefix() {
    [[ -x $SETUP_VENV/bin/pip ]] && "$SETUP_VENV/bin/python" -c 'import sys; print(sys.prefix)' 2>/dev/null
}

# setup_project EXTRA: a file in .venv tells what of which pyproject.toml is installed.
setup_project() {
    local extra=$1 wanted stamp=$SETUP_VENV/installed
    wanted=$(sha256sum <"$SETUP_CHECKOUT/pyproject.toml") || return
    wanted="${wanted%% *} with extras:$extra"
    if [[ -f $stamp ]] && grep -qxF "$wanted" "$stamp"; then
        return 0
    fi
    setup_quietly "installing the project${extra:+ with what its ${extra}s need} in .venv" \
        "$SETUP_VENV/bin/pip" install --disable-pip-version-check --editable \
        "$SETUP_CHECKOUT${extra:+[$extra]}" || return
    # With an extra, all is there for those who want none.
    printf '%s\n' "${wanted%:*}:" ${extra:+"$wanted"} >"$stamp"
}

setup_ovs_releases() {
    local fetch=$SETUP_CHECKOUT/scripts/fetch-ovs
    "$fetch" --is-there || setup_quietly 'fetching releases of Open vSwitch and OVN for tests' "$fetch"
}

# setup_quietly WHAT CMD...: says WHAT, runs CMD, and shows the end of its output only if it fails.
setup_quietly() {
    local what=$1 output
    shift
    printf 'setup: %s\n' "$what"
    output=$("$@" 2>&1 </dev/null) ||
        setup_fail "$what: failed: $(tail -n 3 <<<"$output" | tr '\n' ' ')"
}

setup_fail() {
    printf 'setup: %s\n' "$*" >&2
    return 1
}
