#!/bin/bash
# Mirrors both directions of one port, e.g. a virtual machine's, to another port of its bridge.
set -euo pipefail

if (($# < 2 || $# > 3)); then
    echo "usage: ${0##*/} PORT OUTPUT [NAME]" >&2
    exit 2
fi
port=$1 output=$2 name=${3:-mirror-$1}
bridge=$(ovs-vsctl port-to-br "$port")

output_bridge=$(ovs-vsctl port-to-br "$output")
if [[ $output_bridge != "$bridge" ]]; then
    echo "${0##*/}: $output is not on $bridge, where $port is" >&2
    exit 1
fi
if [[ -n $(ovs-vsctl --bare --columns=_uuid find Mirror name="$name") ]]; then
    echo "${0##*/}: there is a mirror $name already" >&2
    exit 1
fi
ovs-vsctl \
    -- --id=@port get Port "$port" \
    -- --id=@output get Port "$output" \
    -- --id=@mirror create Mirror name="$name" \
    select_src_port=@port select_dst_port=@port output_port=@output \
    -- add Bridge "$bridge" mirrors @mirror
