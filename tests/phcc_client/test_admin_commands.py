"""`phcc-client` as its user types it: what it says, what it keeps, how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from builders import tiny_study
from exports import write_data
from test_joining import kit, written
from test_outbox import ALL

from phcc_client.cli import app
from phcc_client.home import Home
from phcc_client.outbox import Outbox
from phcc_client.policy import Policy
from phcc_client.wording import MEASURES, differences, told
from phcc_model.command_line import run_program
from phcc_model.contract import keys
from phcc_model.contract.enrolment import StudyCard
from phcc_model.study_file import dump_study

STUDY = tiny_study(name="liver", data={"source": "nifti-csv"})
VARIANT = tiny_study(name="liver", data={"source": "nifti-csv"}, pretrain={"rounds": 0})


class Client:
    """The command line of one hospital."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self.code = 0

    def __call__(self, *words: str) -> str:
        self.code = run_program(app, [*words, "--home", str(self.folder)])
        said = self._capsys.readouterr()
        return " ".join((said.out + said.err).split())

    @property
    def home(self) -> Home:
        return Home.open(self.folder)


@pytest.fixture
def client(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setenv("COLUMNS", "200")
    client = Client(tmp_path / "home", capsys)
    card = StudyCard(name="liver", digest=STUDY.digest, purpose="Find [/] pHCC\x1b[31m")
    said = client("init", str(written(tmp_path / "mail", kit(studies=(card,)))))
    assert client.code == 0
    assert "admission-H1.yaml" in said
    assert "fingerprint" in said
    (tmp_path / "liver.yaml").write_text(dump_study(STUDY), encoding="utf-8")
    return client


def test_a_command_without_a_home_says_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program(app, ["studies", "--home", str(tmp_path)]) == 1
    assert "phcc-client init KIT" in capsys.readouterr().err


def test_a_study_is_looked_at_approved_and_withdrawn_from(client: Client, tmp_path: Path) -> None:
    assert "new" in client("studies")
    said = client("show", "liver")
    assert "Only its card came in" in said
    assert "\x1b" not in said
    said = client("show", str(tmp_path / "liver.yaml"))
    assert STUDY.digest in said
    for words in ("Asked for", "Leaves this hospital", "fp16", "never", "fewer than 5 patients"):
        assert words in said
    assert "approved" in client("approve", "liver", "--yes", "--note", "vote 12")
    assert Policy(client.folder).decision(STUDY.digest) == "approved"
    assert "approved" in client("studies")
    assert "nothing to approve" in client("approve", "liver", "--yes")
    client("withdraw", STUDY.digest[:8], "--yes")
    assert Policy(client.folder).decision(STUDY.digest) == "withdrawn"
    client("refuse", "liver", "--yes")
    assert Policy(client.folder).decision(STUDY.digest) == "refused"


def test_a_name_with_two_variants_is_not_enough(client: Client) -> None:
    policy = Policy(client.folder)
    policy.see(dump_study(STUDY))
    policy.decide(STUDY.digest, "approved")
    policy.see(dump_study(VARIANT))
    said = client("approve", "liver", "--yes")
    assert client.code == 1
    assert VARIANT.digest[:12] in said
    assert policy.decision(VARIANT.digest) == "new"
    assert "pretrain.rounds" in client("show", "liver")
    client("approve", "liver", "--all", "--yes")
    assert policy.decision(VARIANT.digest) == "approved"


def test_without_an_answer_nothing_is_decided(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.confirm", lambda _: False)
    assert "nothing was decided" in client("approve", "liver")
    assert Policy(client.folder).decision(STUDY.digest) == "new"


@pytest.mark.parametrize(
    "words", [("show", "../../etc/passwd"), ("approve", "nope", "--yes"), ("logs", "../x"), ("show", "")]
)
def test_a_name_that_is_none_is_one_line(client: Client, words: tuple[str, ...]) -> None:
    said = client(*words)
    assert client.code == 1
    assert said.startswith("error:")
    assert "fault of the program" not in said


def test_settings_are_changed_together_or_not_at_all(client: Client, tmp_path: Path) -> None:
    client("set", f"data={tmp_path}", "devise=cuda")
    assert client.code == 1
    assert client.home.settings.data is None
    client("set", f"data={tmp_path}", "threads=2")
    assert (client.home.settings.data, client.home.settings.threads) == (str(tmp_path), 2)
    assert "comes from the kit" in client("set", "hospital=H2")


def test_images_are_prepared_and_counted(client: Client, tmp_path: Path) -> None:
    assert "phcc-client set data=FOLDER" in client("prepare", str(tmp_path / "liver.yaml"))
    data = write_data(tmp_path / "data", {"H1": 20})
    client("set", f"data={data}", "minimum_count=3", "threads=1")
    said = client("prepare", "liver")
    assert client.code == 0
    assert "27 of 27 cases are ready" in said
    assert "announced as 0 is not used" in said
    assert "27 of 27" in client("prepare", "liver")


def test_what_left_is_shown_in_words_and_checked(client: Client) -> None:
    assert "0 messages" in client("outbox")
    box = Outbox(client.home.outbox)
    for message in (*ALL, ALL[2], ALL[2]):
        box.record(message, study="liver")
    said = client("outbox")
    assert client.code == 0
    for words in ("change of 6 weights", "train 40 patients (20 positive, 20 negative)", "7 messages"):
        assert words in said
    assert said.count("still training") == 2  # three in a row would be one
    assert client("outbox", "--json").count('"kind"') == 7
    assert client("outbox", "--study", "other").startswith("0 messages")
    content = box.file.read_bytes()
    box.file.write_bytes(content.replace(b"40", b"41", 1))
    assert "does not hold" in client("outbox")
    assert client.code == 1


def test_a_key_is_rotated_and_activated(client: Client) -> None:
    before = client.home.public_key.read_text()
    assert "admission-H1-next.yaml" in client("rotate-key")
    assert client.home.public_key.read_text() == before
    client("activate-key", "--yes")
    assert client.home.public_key.read_text() != before
    assert "rotate-key first" in client("activate-key", "--yes")


def test_logs_show_their_end(client: Client) -> None:
    assert "nothing was logged yet" in client("logs")
    (client.home.logs / "node.log").write_text(
        "".join(f"line {n} [/]\n" for n in range(50)), encoding="utf-8"
    )
    (client.home.site / "errors.log").write_text("it broke\n", encoding="utf-8")
    said = client("logs", "--lines", "2")
    assert "line 48 [/] line 49 [/]" in said
    assert "line 47" not in said
    assert "it broke" in said
    assert "it broke" not in client("logs", "node")


def test_every_measure_of_the_contract_has_words() -> None:
    assert MEASURES.keys() == keys.METRICS


def test_variants_differ_in_what_they_differ_in() -> None:
    assert differences(VARIANT, STUDY) == ("pretrain.rounds: 0 in place of 2",)
    assert differences(STUDY, STUDY) == ()


def test_every_message_has_words(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox.jsonl")
    for message in ALL:
        assert "{" not in told(box.record(message))


@pytest.mark.parametrize("command", [c.name or c.callback.__name__ for c in app.registered_commands])
def test_every_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(app, [command, "--help"]) == 0
    assert f"Example: phcc-client {command}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.process
def test_the_command_line_starts_without_torch_and_flower() -> None:
    code = (
        "import sys, phcc_client.cli, phcc_client.admin_commands, phcc_client.study_commands, "
        "phcc_client.policy, phcc_client.outbox, "
        "phcc_client.joining, phcc_client.home; sys.exit(bool({'torch', 'flwr', 'SimpleITK'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_arm_of_a_study_is_shown_and_prepared(client: Client, tmp_path: Path) -> None:
    study = tiny_study(
        name="arms",
        data={"source": "nifti-csv"},
        evaluation={"arms": ["full", "no-pretraining", "phase:*", "afp"]},
    )
    file = tmp_path / "arms.yaml"
    file.write_text(dump_study(study), encoding="utf-8")
    said = client("show", str(file))
    for words in (
        "no-pretraining pretrain.rounds: 0 in place of 2",
        "full the study as it is",
        "phase:arterial",
    ):
        assert words in said
    client("set", f"data={write_data(tmp_path / 'data', {'H1': 12})}", "threads=1")
    assert client("prepare", "arms").count("16 of 16 cases are ready") == 3
    assert len(list(client.home.site.glob("prepared-*/site.json"))) == 3
