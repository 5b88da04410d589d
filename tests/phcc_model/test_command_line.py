"""What a person sees when a command fails: one line, an exit code, and the traceback only when asked for."""

from __future__ import annotations

import pytest
import typer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from phcc_model.command_line import DefaultCommandGroup, run_program
from phcc_model.errors import ConfigError

app = typer.Typer(cls=DefaultCommandGroup, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
ERRORS: dict[str, BaseException] = {
    "ours": ConfigError("the value is wrong", where="study.yaml: seed", remedy="Use 0 or more"),
    "lines": ConfigError("two\nlines\tof text"),
    "markup": ConfigError("expected are ['change'], not [red]blood[/red] [/]"),
    "foreign": ZeroDivisionError("division by zero"),
    "interrupt": KeyboardInterrupt(),
    "system": SystemExit(3),
}
said: list[str] = []


@app.command("run")
def run_command(study: str, times: int = 1) -> None:
    said.append(f"{study} {times}")


@app.command("fail")
def fail_command(how: str) -> None:
    raise ERRORS[how]


@app.command("answer")
def answer_command() -> int:
    return 7


def line_of(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_command_that_succeeds_exits_with_zero(capsys: pytest.CaptureFixture[str]) -> None:
    said.clear()
    assert run_program(app, ["run", "demo", "--times", "2"]) == 0
    assert said == ["demo 2"]
    assert capsys.readouterr() == ("", "")


def test_a_commands_own_code_is_the_programs() -> None:
    assert run_program(app, ["answer"]) == 7


def test_a_first_word_that_is_no_command_is_what_is_to_be_run() -> None:
    said.clear()
    assert run_program(app, ["demo.yaml", "--times", "3"]) == 0
    assert said == ["demo.yaml 3"]


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("ours", 1, "error: study.yaml: seed: the value is wrong. Use 0 or more."),
        ("lines", 1, "error: two lines of text."),
        ("markup", 1, "error: expected are ['change'], not [red]blood[/red] [/]."),
        (
            "foreign",
            1,
            "error: ZeroDivisionError: division by zero. This is a fault of the program; run again with --debug "
            "for the traceback.",
        ),
        ("interrupt", 130, "stopped. What was finished is kept; the same command goes on from there."),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    how: str, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program(app, ["fail", how]) == code
    assert line_of(capsys) == line


@pytest.mark.parametrize("words", [["--debug", "fail", "ours"], ["fail", "ours", "--debug"]])
def test_debug_shows_the_traceback(words: list[str]) -> None:
    with pytest.raises(ConfigError):
        run_program(app, words)
    with pytest.raises(ZeroDivisionError):
        run_program(app, [word if word != "ours" else "foreign" for word in words])


def test_an_exit_that_was_meant_is_not_swallowed() -> None:
    with pytest.raises(SystemExit) as caught:
        run_program(app, ["fail", "system"])
    assert caught.value.code == 3


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["run"], "Missing argument 'STUDY'"),
        (["run", "demo", "--tims", "3"], "No such option"),
        (["run", "demo", "--times", "many"], "Invalid value for '--times'"),
        (["--nonsense"], "No such option"),
    ],
)
def test_a_wrong_use_is_told_with_the_usage(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program(app, words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("Usage:")
    assert line in captured.err
    assert "Traceback" not in captured.err


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(text="\x1b[2J\x1b]0;title\x07 [bold]x[/bold] \\[red] :warning:")
@given(text=st.text(max_size=80))
def test_whatever_an_error_says_is_told_in_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    ERRORS["any"] = ConfigError(text)
    assert run_program(app, ["fail", "any"]) == 1
    shown = " ".join("".join(c if c.isprintable() else " " for c in f"{text}.").split())
    assert capsys.readouterr().err == f"error: {shown}\n"
