"""``reformer convert``: other libraries' models as ours, ours as Hugging Face's."""

from reformer.cli.arguments import ConvertArguments
from reformer.interop.convert import convert


def run(arguments: ConvertArguments) -> int:
    """Parse, convert, say what was written."""
    print(
        convert(
            arguments.source,
            arguments.target,
            config=arguments.config,
            weights_file=arguments.weights_file,
            revision=arguments.revision,
            rule=arguments.rule,
        )
    )
    return 0
