#!/bin/bash
# Removes a mirror, offloaded or not.
set -euo pipefail

if (($# != 1)); then
    echo "usage: ${0##*/} NAME" >&2
    exit 2
fi
mirror=$(ovs-vsctl get Mirror "$1" _uuid)
bridge=$(ovs-vsctl --bare --columns=name find Bridge "mirrors{>=}$mirror")

if [[ -z $bridge ]]; then
    echo "${0##*/}: no bridge has mirror $1" >&2
    exit 1
fi
ovs-vsctl remove Bridge "$bridge" mirrors "$mirror"
