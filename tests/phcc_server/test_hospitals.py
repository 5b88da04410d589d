"""The register: who is let in, who is not, and that every refusal is written down."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phcc_model.contract.enrolment import Admission, Kit, StudyCard, make_admission, public_text, write_file
from phcc_model.errors import ContractError, PhccError, StorageError
from phcc_server.hospitals import Register
from phcc_server.nodes import Node, reconcile

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
KEYS = [ec.generate_private_key(ec.SECP384R1()) for _ in range(4)]
CARD = StudyCard(name="demo", digest="ab" * 32, purpose="to see")


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now

    def pass_days(self, days: float) -> None:
        self.now += timedelta(days=days)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def register(tmp_path: Path, clock: Clock) -> Register:
    return Register(tmp_path / "records.db", clock, who="ada")


def invite(register: Register, hospital: str = "H1") -> Kit:
    return register.invite(hospital, server="phcc.example.org:443", ca_pem="PEM", days=14, studies=[CARD])


def admission(kit: Kit, key: int = 0, old: int | None = None, **changes: object) -> str:
    made = make_admission(
        kit.hospital, kit.invitation, kit.secret, KEYS[key], NOW, KEYS[old] if old is not None else None
    )
    return write_file(made.model_copy(update=changes))


def public(key: int) -> str:
    return public_text(KEYS[key].public_key())


def events(register: Register) -> list[str]:
    return [event.what for event in register.events()]


def refused(register: Register, text: str, match: str) -> None:
    """An admission is refused in one line, changes nothing, and leaves a row."""
    before, kept = events(register), register.admitted_keys()
    with pytest.raises(ContractError, match=match) as caught:
        register.admit(text, "a.yaml")
    assert "\n" not in str(caught.value)
    assert events(register) == [*before, "refused"]
    assert register.events()[-1].detail == str(caught.value)
    assert register.admitted_keys() == kept


def test_a_hospital_is_invited_admitted_and_revoked(register: Register) -> None:
    kit = invite(register)
    assert register.hospitals()[0].state == "invited"
    assert (kit.expires - kit.issued).days == 14
    assert kit.studies == (CARD,)
    admitted = register.admit(admission(kit), "a.yaml")
    assert admitted.kind == "first"
    assert register.admitted_keys() == {public(0): "H1"}
    assert register.hospitals()[0].state == "admitted"
    assert register.revoke("H1") == (admitted.fingerprint,)
    assert register.admitted_keys() == {}
    assert register.hospitals()[0].state == "revoked"
    assert events(register) == ["invited", "admitted", "revoked"]
    assert {event.who for event in register.events("H1")} == {"ada"}
    assert register.events()[0].at == NOW


def test_the_same_file_twice_changes_nothing(register: Register, clock: Clock) -> None:
    text = admission(invite(register))
    first = register.admit(text, "a.yaml")
    clock.pass_days(100)
    again = register.admit(text, "a.yaml")
    assert (again.kind, again.fingerprint) == ("again", first.fingerprint)
    assert events(register) == ["invited", "admitted"]


def test_what_is_remembered_outlives_the_program(tmp_path: Path, register: Register) -> None:
    register.admit(admission(invite(register)), "a.yaml")
    again = Register(tmp_path / "records.db")
    assert again.admitted_keys() == {public(0): "H1"}
    assert (tmp_path / "records.db").stat().st_mode & 0o777 == 0o600


def test_an_invitation_expires(register: Register, clock: Clock) -> None:
    kit = invite(register)
    clock.pass_days(15)
    assert register.hospitals()[0].state == "expired"
    refused(register, admission(kit), "expired on 2026-12-08 12:00 UTC. Invite H1 again")


def test_a_newer_invitation_ends_the_older(register: Register) -> None:
    old, new = invite(register), invite(register)
    refused(register, admission(old), "in favour of a newer one.*Use the newest kit")
    assert register.admit(admission(new), "a.yaml").kind == "first"


def test_a_foreign_invitation_another_name_and_a_foreign_secret_are_refused(register: Register) -> None:
    one, two = invite(register), invite(register, "H2")
    refused(register, admission(one.model_copy(update={"invitation": "cd" * 16})), "did not give out")
    refused(register, admission(one.model_copy(update={"hospital": "H2"})), "names H2, but carries .* of H1")
    refused(register, admission(one.model_copy(update={"secret": two.secret})), "not made from the kit")
    refused(register, admission(one, signature="ab" * 50), "not signed")
    refused(register, "nonsense", "is no admission")
    refused(register, "a: [", "is no admission")
    refused(register, admission(one, hospital="../H1"), "is no admission")


def test_a_second_key_must_be_vouched_for_by_one_that_is_admitted(register: Register) -> None:
    kit = invite(register)
    register.admit(admission(kit), "a.yaml")
    refused(register, admission(kit, key=1), "no key that is admitted vouches")
    refused(register, admission(kit, key=1, old=2), "no key that is admitted vouches")
    rotated = register.admit(admission(kit, key=1, old=0), "a.yaml")
    assert rotated.kind == "rotated"
    assert register.admitted_keys() == {public(0): "H1", public(1): "H1"}
    assert len(register.retire("H1")) == 1
    assert register.admitted_keys() == {public(1): "H1"}
    refused(register, admission(kit), "a key that was retired on 2026-11-24")
    refused(register, admission(kit, key=2, old=0), "no key that is admitted vouches")
    assert register.retire("H1") == ()
    assert register.admit(admission(kit, key=2, old=1), "a.yaml").kind == "rotated"


def test_a_rotation_needs_no_invitation_that_is_still_open(register: Register, clock: Clock) -> None:
    kit = invite(register)
    register.admit(admission(kit), "a.yaml")
    clock.pass_days(400)
    assert register.admit(admission(kit, key=1, old=0), "a.yaml").kind == "rotated"


def test_a_revoked_key_never_comes_back_but_its_hospital_does(register: Register) -> None:
    kit = invite(register)
    register.admit(admission(kit), "a.yaml")
    register.revoke("H1")
    refused(register, admission(kit), "a key that was revoked")
    refused(register, admission(kit, key=1, old=0), "an invitation that ended")
    new = invite(register)
    refused(register, admission(new), "a key that was revoked")
    assert register.admit(admission(new, key=1), "a.yaml").kind == "first"


def test_a_revoked_invitation_admits_nobody(register: Register) -> None:
    kit = invite(register)
    assert register.revoke("H1") == ()
    refused(register, admission(kit), "an invitation that ended")


def test_a_key_belongs_to_one_hospital(register: Register) -> None:
    register.admit(admission(invite(register)), "a.yaml")
    refused(register, admission(invite(register, "H2")), "holds the key of H1")


def test_one_invitation_admits_one_of_many_that_come_at_once(tmp_path: Path, register: Register) -> None:
    kit = invite(register)
    files = [admission(kit, key) for key in range(4)]

    def admit(text: str) -> str:
        try:
            return Register(tmp_path / "records.db", Clock()).admit(text, "a.yaml").kind
        except ContractError:
            return "refused"

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(admit, files)) == ["first", "refused", "refused", "refused"]
    assert len(register.admitted_keys()) == 1


@pytest.mark.parametrize("name", ["", "../x", "a b", "a/b", "x" * 64, "-x", "H1\n", "ä"])
def test_what_is_no_name_is_refused(register: Register, name: str) -> None:
    with pytest.raises(ContractError, match="no name for a hospital"):
        invite(register, name)
    assert register.hospitals() == ()
    assert events(register) == ["refused"]


def test_names_that_differ_in_case_only_and_hospitals_that_are_admitted_are_not_invited(
    register: Register,
) -> None:
    register.admit(admission(invite(register)), "a.yaml")
    with pytest.raises(ContractError, match="differs from H1 in case only"):
        invite(register, "h1")
    with pytest.raises(ContractError, match="H1: is admitted already"):
        invite(register)
    with pytest.raises(ContractError, match=r"H3: is not in the register\. Known are: H1"):
        register.revoke("H3")
    with pytest.raises(ContractError, match="H3: is not in the register"):
        register.retire("H3")
    assert events(register) == ["invited", "admitted"] + ["refused"] * 4


def test_events_are_never_changed(tmp_path: Path, register: Register) -> None:
    invite(register)
    connection = sqlite3.connect(tmp_path / "records.db")
    for statement in ("UPDATE events SET who = 'x'", "DELETE FROM events"):
        with pytest.raises(sqlite3.DatabaseError, match="never changed"):
            connection.execute(statement)
    connection.close()


def test_a_file_that_is_no_register_is_named(tmp_path: Path) -> None:
    (tmp_path / "records.db").write_text("nonsense" * 1000)
    with pytest.raises(StorageError, match=r"records.db: cannot be used \(file is not a database\)"):
        Register(tmp_path / "records.db")
    with pytest.raises(StorageError, match="cannot be written or read"):
        Register(tmp_path / "nowhere" / "records.db")


def test_a_register_of_a_newer_release_is_left_alone(tmp_path: Path, register: Register) -> None:
    connection = sqlite3.connect(tmp_path / "records.db")
    with connection:
        connection.execute("UPDATE schema_version SET version = 99")
    connection.close()
    with pytest.raises(StorageError, match="written by a newer release"):
        Register(tmp_path / "records.db")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Register, Kit]:
    register = Register(tmp_path_factory.mktemp("register") / "records.db", Clock())
    return register, invite(register)


@given(
    field=st.sampled_from(["hospital", "invitation", "public_key", "proof", "signature"]),
    at=st.integers(0, 300),
    put=st.sampled_from("0123456789abcdefXYZ /"),
)
@settings(max_examples=60, deadline=None)
def test_an_admission_that_was_altered_anywhere_admits_nobody(
    shared: tuple[Register, Kit], field: str, at: int, put: str
) -> None:
    register, kit = shared
    plain = make_admission("H1", kit.invitation, kit.secret, KEYS[0], NOW)
    value = getattr(plain, field)
    at %= len(value)
    altered = value[:at] + put + value[at + 1 :]
    if altered == value:
        return
    with pytest.raises(ContractError):
        register.admit(write_file(Admission.model_construct(**plain.model_dump() | {field: altered})), "a")
    assert register.admitted_keys() == {}


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["invite", "admit", "rotate", "revoke", "retire", "replay"]), st.integers(0, 3)
        ),
        max_size=12,
    )
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_order_no_key_comes_back_and_none_is_admitted_twice(
    steps: list[tuple[str, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        register = Register(Path(folder) / "records.db", Clock())
        kit, files = invite(register), list[str]()
        gone: set[str] = set()
        for what, key in steps:
            before = set(register.admitted_keys())
            try:
                if what == "invite":
                    kit = invite(register)
                elif what in ("admit", "rotate"):
                    files.append(admission(kit, key, (key + 1) % 4 if what == "rotate" else None))
                    register.admit(files[-1], "a")
                elif what == "replay" and files:
                    register.admit(files[key % len(files)], "a")
                elif what == "revoke":
                    register.revoke("H1")
                elif what == "retire":
                    register.retire("H1")
            except ContractError:
                assert set(register.admitted_keys()) == before
            after = set(register.admitted_keys())
            gone |= before - after
            assert not gone & after
            assert len(after - before) <= 1
            if before and after - before:  # a second key: one that was admitted vouched for it
                assert what in ("rotate", "replay")


class FakeNodes:
    """A SuperLink that remembers nodes as Flower does: a key that was unregistered never registers again."""

    def __init__(self) -> None:
        self.known: list[Node] = []

    def nodes(self) -> Sequence[Node]:
        return tuple(self.known)

    def register(self, public_key: str, name: str) -> int:
        if any(node.public_key.startswith(public_key) for node in self.known):
            raise PhccError("public key already in use", where=name)
        self.known.append(Node(len(self.known) + 1, name, public_key + " comment\n", "registered"))
        return len(self.known)

    def unregister(self, node_id: int) -> None:
        self.known = [
            Node(node.node_id, node.name, node.public_key, "unregistered")
            if node.node_id == node_id
            else node
            for node in self.known
        ]

    @property
    def admitted(self) -> dict[str, str]:
        return {
            node.public_key.removesuffix(" comment\n"): node.name
            for node in self.known
            if node.status != "unregistered"
        }


def test_a_superlink_is_made_equal_to_the_register(register: Register) -> None:
    nodes = FakeNodes()
    nodes.register(public(3), "intruder")
    one, two = invite(register), invite(register, "H2")
    register.admit(admission(one), "a")
    register.admit(admission(two, key=1), "a")
    done = reconcile(register, nodes)
    assert [line.partition(":")[0] for line in done] == ["intruder", "H1", "H2"]
    assert nodes.admitted == register.admitted_keys()
    assert reconcile(register, nodes) == []
    register.admit(admission(one, key=2, old=0), "a")
    assert len(reconcile(register, nodes)) == 1
    assert nodes.admitted == {public(0): "H1", public(1): "H2", public(2): "H1"}
    register.revoke("H1")
    assert all("no longer" in line for line in reconcile(register, nodes))
    assert nodes.admitted == {public(1): "H2"}


def test_a_node_under_another_hospitals_name_is_not_left_in(register: Register) -> None:
    nodes = FakeNodes()
    register.admit(admission(invite(register)), "a")
    register.admit(admission(invite(register, "H2"), key=1), "a")
    nodes.register(public(0), "H2")
    with pytest.raises(PhccError, match="already in use"):
        reconcile(register, nodes)
    assert nodes.admitted == {public(1): "H2"}  # what could be done is done
