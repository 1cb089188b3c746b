import io

from rich.table import Table

from proxtune.workflows.terminal import share_bar, terminal


def test_text_is_printed_as_it_is_in_lines_and_in_tables() -> None:
    console = terminal(file=io.StringIO(), width=100, record=True)
    table = Table("a [b]", title="[red]")
    table.add_row("runs/[1]/x :smile:")
    console.print("runs/[/2]/x", table)
    said = console.export_text()
    assert all(each in said for each in ("runs/[/2]/x", "a [b]", "[red]", "runs/[1]/x :smile:"))


def test_a_bar_shows_the_time_left_once_a_share_is_done() -> None:
    console = terminal(file=io.StringIO(), width=60, force_terminal=True)
    with share_bar(console, "runs/[1]") as watch:
        watch(0.5)
    assert "runs/[1]" in console.file.getvalue()  # type: ignore[attr-defined]
