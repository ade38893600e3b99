"""Loading chat models in tests as the service does, and asking them."""

from services.common.settings import load_settings
from services.rewriter.models import Request, load_language_model

SYSTEM = {"role": "system", "content": "You merge descriptions of a photo into one. Answer with one line."}
TEXTS = (
    "a black dog",
    "two children play with a red ball on the beach while a woman with a yellow umbrella walks in the rain",
    "a man in a blue shirt rides a bicycle down the street",
    "b",
    "the cat sleeps on a wooden chair beside the window",
)


def chat(text, system=True):
    return [*([SYSTEM] if system else []), {"role": "user", "content": text}]


def load(place, precision="fp32", **changes):
    """The model at `place`, through `load_language_model` and its settings."""
    settings = {"rewriter_backend": "transformers", "rewriter_model": str(place), "rewriter_precision": precision}
    settings |= {"device": "cpu", "threads": 1}  # for tiny models more threads are slower
    return load_language_model(load_settings(**{**settings, **changes}))


def ask(model, *texts, most=12):
    """What the model answers to each text, all in one batch."""
    return model.generate([Request(chat(text)) for text in texts], max_new_tokens=most)
