"""Rewrites by a chat model on an OpenAI-compatible server, such as vLLM with Llama 3.1."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from services.common.openai_client import Answer, ModelServer, Question
from services.common.settings import Settings
from services.rewriter.models.base import Chat, Generation, Message, Request
from warmer.errors import FailedPrecondition, WarmerError

_log = structlog.get_logger(__name__)


class OpenAIModel:
    """A `LanguageModel`. Not thread-safe.

    Its id is the name as served. Another model under the same name is taken for the same.
    """

    backend = "openai"
    precision = ""  # the server does not say
    device = ""

    def __init__(self, server: ModelServer) -> None:
        self.id = f"openai:{server.model}"
        self.max_tokens = server.max_tokens
        self._server = server
        self._takes_system = True

    @classmethod
    def load(cls, settings: Settings) -> OpenAIModel:
        """The model that WARMER_REWRITER_MODEL names on the server WARMER_REWRITER_OPENAI_URL.

        Raises as `ModelServer.connect`.
        """
        return cls(ModelServer.connect(settings, "rewriter"))

    def warm(self, chats: Sequence[Chat]) -> None:
        """See `LanguageModel.warm`: asks for a word. The server keeps what prompts begin with by itself.

        Raises FailedPrecondition (BAD_PROMPT) for chats that begin the answer, and as `ModelServer.ask`.
        """
        failure = self._try(chats)
        if failure and failure.reason == "MODEL_SERVER_REJECTED" and any(_instructed(chat) for chat in chats):
            self._takes_system = False  # the templates of some models have no place for an instruction, as Gemma's
            if self._try(chats) is None:
                _log.info("the model takes no system message; the instruction goes into the first question")
                return
        if failure:
            raise failure

    def generate(self, requests: Sequence[Request], *, max_new_tokens: int) -> list[Generation | WarmerError]:
        """See `LanguageModel.generate`. All chats are sent at once, and the server batches them.

        The error of one chat is FailedPrecondition (BAD_PROMPT), or as `ModelServer.ask` says.
        """
        answers: list[Generation | WarmerError] = [_begun() for _ in requests]
        asked = [i for i, request in enumerate(requests) if request.chat[-1]["role"] != "assistant"]
        questions = [Question(self._chat(r.chat), r.on_text, r.should_stop) for r in map(requests.__getitem__, asked)]
        for i, answer in zip(asked, self._server.ask(questions, max_new_tokens=max_new_tokens), strict=True):
            answers[i] = _generation(answer)
        return answers

    def close(self) -> None:
        """Closes the connections to the server."""
        self._server.close()

    def _try(self, chats: Sequence[Chat]) -> WarmerError | None:
        answers = self.generate([Request(chat) for chat in chats], max_new_tokens=2)
        return next((answer for answer in answers if isinstance(answer, WarmerError)), None)

    def _chat(self, chat: Chat) -> list[Message]:
        """The chat as it is sent: where the model takes no system message, it stands before what is asked first."""
        if self._takes_system or not _instructed(chat):
            return list(chat)
        instruction, first, *rest = chat
        return [Message(role=first["role"], content=f"{instruction['content']}\n\n{first['content']}"), *rest]


def _instructed(chat: Chat) -> bool:
    return len(chat) > 1 and chat[0]["role"] == "system"


def _begun() -> WarmerError:
    """To go on with an answer that was begun is an addition of some servers; the others would begin another one."""
    return FailedPrecondition(
        "the prompt begins the answer for the model, which OpenAI-compatible servers do not offer",
        reason="BAD_PROMPT",
        hint="set WARMER_REWRITER_PROMPT to one that does not, such as merge.v1",
    )


def _generation(answer: Answer | WarmerError) -> Generation | WarmerError:
    return answer if isinstance(answer, WarmerError) else Generation(answer.text, answer.tokens, answer.finished)
