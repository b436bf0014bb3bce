#!/bin/bash
# Mirrors all packets of a bridge to one of its ports.
set -euo pipefail

if (($# < 2 || $# > 3)); then
    echo "usage: ${0##*/} BRIDGE OUTPUT [NAME]" >&2
    exit 2
fi
bridge=$1 output=$2 name=${3:-mirror-$1}

output_bridge=$(ovs-vsctl port-to-br "$output")
if [[ $output_bridge != "$bridge" ]]; then
    echo "${0##*/}: $output is not on $bridge" >&2
    exit 1
fi
if [[ -n $(ovs-vsctl --bare --columns=_uuid find Mirror name="$name") ]]; then
    echo "${0##*/}: there is a mirror $name already" >&2
    exit 1
fi
ovs-vsctl \
    -- --id=@output get Port "$output" \
    -- --id=@mirror create Mirror name="$name" select_all=true output_port=@output \
    -- add Bridge "$bridge" mirrors @mirror
