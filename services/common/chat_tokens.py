"""What chat templates and models mark turns and images with, so that no text that a model wrote or read can carry it.

An image may show such marks, and a model may read them out. In a prompt they would end the turn that they stand in.
"""

import re
import unicodedata

# ChatML and Llama 3 (<|...|>), Llama 2 and Mistral ([INST], <<SYS>>), Gemma (<start_of_turn>), sentencepiece (<s>),
# and what stands for images and their tiles (<image>, [IMG], <image_soft_token>, <fake_token_around_image>).
_TOKEN = re.compile(
    r"<\|[^<>|]{0,64}\|>|<\||\|>"
    r"|<</?SYS>>|\[/?(?:INST|IMG|IMG_BREAK|IMG_END|SYSTEM_PROMPT)\]"
    r"|</?s>|<(?:bos|eos|pad|unk|mask)>|</?(?:start|end)_of_(?:turn|utterance|image)>"
    r"|</?image(?:_soft_token)?>|<fake_token_around_image>|<global-img>|<row_\d+_col_\d+>",
    re.IGNORECASE,
)


def plain(text: str) -> str:
    """`text` on one line, without control characters and chat tokens; runs of blanks become one space.

    Repeated until nothing changes, so that no token can be hidden in another.
    """
    text = "".join(" " if unicodedata.category(char)[0] in "CZ" or char == "\ufffd" else char for char in text)
    before = None
    while text != before:
        before, text = text, _TOKEN.sub(" ", text)
    return " ".join(text.split())
