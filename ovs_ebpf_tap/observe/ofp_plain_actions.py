"""OpenFlow actions of which the type alone says what they do.

The numbers are those of `lib/ofp-actions.c`.
"""

from __future__ import annotations

from ovs_ebpf_tap.model.flow import (
    SECOND_VLAN,
    VLAN,
    VLAN_PRESENT,
    Actions,
    Forget,
    Known,
    Load,
    Modify,
    Move,
)

MAY_MODIFY = Modify(always=False)
"""The packet may be changed, or lack what would be."""
_MODIFY = (Modify(),)
# A tag is put on or taken off behind others, or with them.
_MODIFY_TAGS = (Modify(), Forget(VLAN.mask))
# As `OFPACT_PUSH_VLAN` in `do_xlate_actions`: the new tag's VLAN is 0.
# Of `mod_vlan_vid`, OVS tells a push as well, although there may be no second tag then.
_PUSHED = (Modify(), Forget(SECOND_VLAN.mask), Load(Known.of(VLAN, VLAN_PRESENT)))
_POPPED = (
    MAY_MODIFY,
    Move(SECOND_VLAN, VLAN),
    Load(Known.of(SECOND_VLAN, 0)),
)

PLAIN: dict[int, Actions] = {
    # OpenFlow 1.1's, which OVS keeps to where a flow does not say whose ports they are.
    2: (MAY_MODIFY,),  # set_vlan_pcp
    3: _MODIFY,  # set_dl_src
    4: _MODIFY,  # set_dl_dst
    9: (MAY_MODIFY,),  # set_tp_src
    10: (MAY_MODIFY,),  # set_tp_dst
    17: _PUSHED,  # push_vlan
    18: _POPPED,  # pop_vlan
    19: _MODIFY_TAGS,  # push_mpls
    20: _MODIFY_TAGS,  # pop_mpls
    21: (),  # set_queue
    29: (),  # meter
}
"""By type: OpenFlow's own."""

BY_TYPE = {5, 6, 7, 8, *range(11, 17), 23, 24}
"""Those that change packets of their type: set_nw_src, _dst, _tos, _ecn; copy_ttl_out, _in;
set_mpls_label, _tc, _ttl, dec_mpls_ttl; set_nw_ttl, dec_nw_ttl."""

PLAIN_NX: dict[int, Actions] = {
    4: (),  # set_queue
    5: (),  # pop_queue
    8: (),  # note
    17: (),  # exit
    19: (),  # fin_timeout
    20: (),  # controller
    27: (),  # push
    29: (),  # sample
    38: (),  # sample
    41: (),  # sample
    43: (),  # ct_clear
    46: _MODIFY_TAGS,  # encap
    47: _MODIFY_TAGS,  # decap
    48: (MAY_MODIFY,),  # dec_nsh_ttl
    50: (),  # delete_field, of tunnel metadata
    51: (),  # sample
}
"""By subtype: Nicira's."""
