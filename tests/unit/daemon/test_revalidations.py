"""When revalidations begin, and which mirrors they cover."""

from __future__ import annotations

from uuid import UUID

import ovs.poller

from ovs_ebpf_tap.daemon.revalidations import Revalidations
from ovs_ebpf_tap.observe import ofp

M, N = UUID(int=1), UUID(int=2)


class ToldRound:
    """One that ends when it is told to."""

    def __init__(self) -> None:
        self.done = self.lost = False

    def run(self) -> None:
        """It is told from outside."""

    def wait(self, poller: ovs.poller.Poller) -> None:
        """It is told from outside."""

    def close(self) -> None:
        """It has nothing."""


class Clerk:
    """Revalidations, and the rounds that they have begun."""

    def __init__(self) -> None:
        self.all = Revalidations()
        self.rounds: list[ToldRound] = []

    def begin(self) -> ToldRound:
        self.rounds.append(ToldRound())
        return self.rounds[-1]

    def look(self, *returning: UUID, applied: bool = True, known: bool = True) -> set[UUID]:
        return self.all.look(set(returning), applied, known, self.begin)

    def end(self) -> None:
        self.rounds[-1].done = True
        assert self.all.run()


def started() -> Clerk:
    clerk = Clerk()
    clerk.look(known=False)
    clerk.end()
    assert not clerk.all.pending
    return clerk


def test_the_first_covers_no_mirror() -> None:
    """Who gave it back is not known, nor whether ovs-vswitchd has taken that in."""
    clerk = Clerk()
    assert clerk.look(M, applied=False, known=False) == {M}
    assert clerk.rounds == []
    assert clerk.look(M, known=False) == {M}
    clerk.end()
    assert clerk.look(M, known=False) == {M}
    assert clerk.all.asked
    clerk.all.written([])
    assert clerk.look(M) == {M}
    clerk.end()
    assert clerk.look(M) == set()
    assert len(clerk.rounds) == 2


def test_a_move_begins_one_when_it_is_taken_in() -> None:
    clerk = started()
    clerk.all.written([M])
    assert clerk.look(M, applied=False) == {M}
    assert clerk.all.pending
    assert len(clerk.rounds) == 1
    assert clerk.look(M) == {M}
    clerk.end()
    assert clerk.look(M) == set()
    assert not clerk.all.asked


def test_what_others_gave_back_asks_for_a_transaction() -> None:
    clerk = started()
    assert clerk.look(M) == {M}
    assert clerk.all.asked
    clerk.all.written([])
    assert clerk.look(M) == {M}
    clerk.end()
    assert clerk.look(M) == set()


def test_what_others_gave_back_meanwhile_is_not_covered() -> None:
    """By a transaction that moved it to hooks: OVS may have taken that one in alone."""
    clerk = started()
    clerk.all.written([])
    assert clerk.look(M) == {M}
    clerk.end()
    assert clerk.look(M) == {M}
    assert clerk.all.asked


def test_later_ones_do_not_hold_a_mirror_back() -> None:
    clerk = started()
    clerk.all.written([M])
    clerk.look(M)
    clerk.end()
    clerk.all.written([N])
    assert clerk.look(M, N) == {N}


def test_a_transaction_that_failed_is_made_again() -> None:
    clerk = started()
    clerk.look(M)
    clerk.all.written([])
    assert clerk.look(M, known=False) == {M}
    assert clerk.all.asked
    assert len(clerk.rounds) == 1


def test_none_is_pending_without_ovs_vswitchd() -> None:
    clerk = Clerk()
    clerk.look()
    assert clerk.all.pending
    clerk.rounds[-1].lost = True
    assert not clerk.all.pending


def test_the_flow_mod_is_confined_to_one_cookie() -> None:
    data = ofp.delete_none(ofp.OF13, 7, 0x1234)
    assert len(data) == 56
    version, kind, length, xid = ofp.HEADER.unpack_from(data)
    assert (version, kind, length, xid) == (ofp.OF13, 14, 56, 7)
    assert data[8:24] == (0x1234).to_bytes(8) + b"\xff" * 8
    assert data[24:26] == bytes([253, 4])
