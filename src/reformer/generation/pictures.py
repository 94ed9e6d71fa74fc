"""Pictures drawn by a model, value by value: new ones, or ones that continue a beginning."""

import math
from collections.abc import Callable, Sequence

from reformer.data.image_tokens import image_shape, to_picture, to_tokens
from reformer.data.images import Picture
from reformer.generation.decode import generate_batch
from reformer.generation.sampling import Sampling
from reformer.models.language import ReformerForCausalLM


def draw(
    model: ReformerForCausalLM,
    beginnings: Sequence[Picture],
    *,
    num_samples: int,
    sampling: Sampling,
    seed: int = 0,
    on_value: Callable[[], None] = lambda: None,
) -> list[list[Picture]]:
    """``num_samples`` pictures for each beginning, all drawn together.

    beginnings: the upper rows of a picture, uint8 [rows, columns, channels], of one extent and
    none too. on_value: called after every value that is drawn.
    """
    shape = image_shape(model.config)

    def goes_on(_beginning: int, _sample: int, _token_id: int) -> bool:
        on_value()
        return False

    prompts = [to_tokens(beginning) for beginning in beginnings]
    completions = generate_batch(
        model,
        prompts,
        max_new_tokens=math.prod(shape) + 1 - len(prompts[0]),
        num_samples=num_samples,
        sampling=sampling,
        seed=seed,
        ends=goes_on,
    )
    return [
        [to_picture([*prompt, *completion.token_ids], shape) for completion in group]
        for prompt, group in zip(prompts, completions, strict=True)
    ]
