"""surgeon push"""

from typing import Annotated

import typer

from surgeon.cli.options import AsJson


def push(
    output: Annotated[str, typer.Argument(metavar="OUT", help="A pruned folder.")],
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository, made if need be.")],
    private: Annotated[
        bool, typer.Option("--private", metavar="", help="Make a new repository private.")
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option(metavar="BRANCH", help="Push to this branch, not to main.", show_default=False),
    ] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", metavar="", help="Open a pull request instead.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Show what would go, send nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a pruned folder on the Hub: weights, config, code, tokenizer, card and graph.

    Log in first: hf auth login. An edited model card is kept.
    """
    from surgeon.cli.render import print_json, say
    from surgeon.hub.push import push as run
    from surgeon.units import format_size

    report = run(output, repo, private=private, revision=revision, create_pr=create_pr, dry_run=dry_run)
    if as_json:
        print_json(report)
        return
    verb = "would go" if dry_run else "went"
    size = format_size(sum(report.files.values()))
    say(f"{len(report.files)} files, {size}, {verb} to {report.repo}: {', '.join(report.files)}")
    if report.left_out:
        typer.echo(f"Left out: {', '.join(report.left_out)}")
    for sentence in report.advice:
        say(sentence)
    if report.url:
        typer.echo(report.url)
        typer.echo(f"Next: surgeon inspect {report.repo}")
    if dry_run:
        typer.echo("Next: the same without --dry-run")
