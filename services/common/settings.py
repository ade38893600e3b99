"""One typed place for everything that an operator can set, so that no service reads the environment by itself.

Values come from environment variables with the prefix `WARMER_`, then from a file `.env` in the working directory,
then from the defaults below. `python -m services.common.settings` prints `.env.example`, which a test compares.
"""

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.common.profiles import PRESETS, PROFILES
from warmer.errors import InvalidArgument

ENV_PREFIX = "WARMER_"


def usable_cores() -> int:
    """Number of CPU cores that this process may use: its affinity, cut by the container's CPU quota (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores  # no cgroup v2 here, so there is no quota to respect
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


class Settings(BaseSettings):
    """Settings of all four services. Every field is the environment variable `WARMER_` + its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_file=".env", env_file_encoding="utf-8", extra="ignore", validate_default=True
    )

    # General
    profile: Literal["compact", "hub", "paper", "serve"] = Field(
        "compact", description="Which models the services load; docs/models.md says what each is for."
    )
    preset: Literal["", "int4", "int8", "fp16"] = Field(
        "",
        description="Precision of captioner and rewriter: int4 and int8 for a GPU with 24 GB, fp16 for 48 GB.",
    )
    threads: int = Field(
        default_factory=usable_cores,
        ge=1,
        le=1024,
        description="Threads that a process may compute with, shared by torch, ONNX Runtime, FAISS and BLAS.",
        json_schema_extra={"shown_default": "the number of usable cores"},
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["console", "json"] = Field("console", description="Lines for people, or one JSON object each.")

    # Network
    host: str = Field("127.0.0.1", description="Address that the services listen on; 0.0.0.0 for all interfaces.")
    orchestrator_port: int = Field(50050, ge=0, le=65535, description="TCP port of the orchestrator.")
    embedder_port: int = Field(50051, ge=0, le=65535, description="TCP port of the embedder.")
    captioner_port: int = Field(50052, ge=0, le=65535, description="TCP port of the captioner.")
    rewriter_port: int = Field(50053, ge=0, le=65535, description="TCP port of the rewriter.")
    orchestrator_target: str = Field("", description="gRPC target of the orchestrator; empty: localhost and its port.")
    embedder_target: str = Field("", description="gRPC target of the embedder; empty: localhost and its port.")
    captioner_target: str = Field("", description="gRPC target of the captioner; empty: localhost and its port.")
    rewriter_target: str = Field("", description="gRPC target of the rewriter; empty: localhost and its port.")
    max_message_bytes: int = Field(
        67_108_864, ge=1_048_576, le=2_147_483_647, description="Largest gRPC message, either way, in bytes."
    )
    drain_s: float = Field(
        10.0, ge=0, le=3600, description="Seconds that running calls get to finish after SIGTERM or SIGINT."
    )
    call_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds that a call from one service to another may take, when nothing asks less.",
    )
    deadline_margin_s: float = Field(
        0.05, ge=0, le=10, description="Seconds of a caller's deadline kept back when the rest is forwarded downstream."
    )

    # Storage
    data_dir: Path = Field(
        Path("~/.local/share/warmer"), description="Folder of collections and of the embedded Redis. Back this up."
    )
    models_dir: Path = Field(
        Path("~/.cache/warmer/models"), description="Folder of model files built at install; can be built again."
    )

    # Models of all services but the compact ones
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="Where models compute: auto, cpu, cuda or cuda:N."
    )
    attention: Literal["auto", "flash", "sdpa", "eager"] = Field(
        "auto", description="Attention kernels; auto takes flash-attn where package and GPU have it, else sdpa."
    )
    allow_hub: bool = Field(
        False,
        description="Whether a model that is no local folder may be downloaded from the Hugging Face hub at start.",
    )
    openai_api_key: SecretStr = Field(
        SecretStr(""), description="Key for OpenAI-compatible servers; empty where they ask for none."
    )
    openai_timeout_s: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="Seconds that an OpenAI-compatible server may take to answer, retries included.",
    )
    openai_retries: int = Field(
        2, ge=0, le=10, description="Times that a call to an OpenAI-compatible server is tried again."
    )
    openai_concurrency: int = Field(
        16, ge=1, le=1024, description="Most calls to an OpenAI-compatible server at once; it batches them."
    )

    # Image decoding
    max_image_bytes: int = Field(33_554_432, ge=1024, description="Largest image file, in bytes.")
    max_image_pixels: int = Field(
        100_000_000, ge=1024, description="Most pixels (width times height) that an image may have."
    )
    decode_workers: int = Field(2, ge=1, le=64, description="Processes that decode images.")
    decode_timeout_s: float = Field(20.0, gt=0, le=600, description="Seconds that decoding one image may take.")

    # Embedder
    embedder_backend: Literal["", "compact", "blip", "huggingface"] = Field(
        "", description="What loads the embedding model; empty: as the profile says."
    )
    embedder_model: str = Field(
        "", description="For huggingface: a CLIP, SigLIP or BLIP checkpoint: a folder, a fetched model, or a hub id."
    )
    blip_weights: str = Field(
        "",
        description="For blip: a .pth or .ckpt file of the original code, a checkpoint's folder, or a fetched model.",
    )
    blip_image_size: int = Field(
        0, ge=0, le=1024, description="Edge of the images that BLIP reads, in pixels; 0: as its weights were trained."
    )
    blip_match_token: Literal["cls", "enc"] = Field(
        "cls",
        description="First token of the words that BLIP's matching head reads: cls as the original's blip_itm; "
        "enc as its training, and its published figures.",
    )
    embedder_precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        "auto", description="Number format of blip and huggingface; auto: fp16 on a GPU, bf16 on a CPU that has it."
    )
    rerank_batch: int = Field(16, ge=1, le=256, description="Most image-text pairs that are re-ranked at once.")
    embed_text_batch: int = Field(32, ge=1, le=1024, description="Most texts embedded at once.")
    embed_image_batch: int = Field(16, ge=1, le=1024, description="Most images embedded at once.")
    embed_wait_s: float = Field(
        0.002, ge=0, le=1, description="Seconds that a text or image waits for others to join it."
    )
    embed_queue: int = Field(1024, ge=1, description="Most texts or images waiting; more are RESOURCE_EXHAUSTED.")
    commit_items: int = Field(64, ge=1, le=4096, description="Images made durable in one transaction while adding.")
    content_chunk_bytes: int = Field(
        1_048_576, ge=4096, le=16_777_216, description="Size of a chunk of streamed image content, in bytes."
    )
    prior_temperature: float = Field(0.05, gt=0, description="Default tau_q: temperature of the query as a prior.")
    preference_temperature: float = Field(0.25, gt=0, description="Default tau_u: temperature of a person's choice.")
    preference_lapse: float = Field(0.1, ge=0, lt=1, description="Default share of choices taken to be made at random.")

    # Captioner
    captioner_backend: Literal["", "compact", "transformers", "openai"] = Field(
        "", description="What runs the captioning model; empty: as the profile says."
    )
    captioner_model: str = Field(
        "",
        description="LLaVA-NeXT or another image-text-to-text model: a folder, a fetched model, a hub or served name.",
    )
    captioner_precision: Literal["auto", "fp32", "fp16", "bf16", "int8", "nf4"] = Field(
        "auto",
        description="Number format for transformers; auto: the preset's, else fp16 on a GPU, bf16 or fp32 on a CPU.",
    )
    captioner_prompt: str = Field(
        "", description="Prompt of captioning: a name of services/captioner/prompts; empty: as the profile says."
    )
    captioner_max_new_tokens: int = Field(
        60, ge=1, le=1024, description="Most tokens of a caption; the compact captioner has a limit of its own."
    )
    captioner_openai_url: str = Field(
        "", description="Base URL of the OpenAI-compatible server that captions, such as http://vllm:8000/v1."
    )
    caption_batch: int = Field(16, ge=1, le=256, description="Most images captioned at once; presets lower it.")
    caption_wait_s: float = Field(0.005, ge=0, le=1, description="Seconds that an image waits for others to join it.")
    caption_queue: int = Field(256, ge=1, description="Most images waiting for a caption; more are RESOURCE_EXHAUSTED.")
    caption_beams: int = Field(5, ge=1, le=16, description="Width of the captioner's beam search.")
    caption_max_edge: int = Field(
        384, ge=32, le=4096, description="Longer edge of the images that the captioner is handed, in pixels."
    )

    # Rewriter
    rewriter_backend: Literal["", "compact", "transformers", "openai"] = Field(
        "", description="What runs the language model; empty: as the profile says."
    )
    rewriter_model: str = Field(
        "", description="Llama or another chat model: a folder, a GGUF file, a fetched model, a hub or served name."
    )
    rewriter_precision: Literal["auto", "fp32", "fp16", "bf16", "int8", "nf4"] = Field(
        "auto",
        description="Number format for transformers; auto: the preset's, else fp16 on a GPU, bf16 or fp32 on a CPU.",
    )
    rewriter_prompt: str = Field(
        "", description="Prompt of rewriting: a name of services/rewriter/prompts; empty: as the profile says."
    )
    rewriter_openai_url: str = Field(
        "", description="Base URL of the OpenAI-compatible server that rewrites, such as http://vllm:8000/v1."
    )
    rewriter_batch: int = Field(8, ge=1, le=256, description="Most rewrites that the language model writes at once.")
    rewriter_wait_s: float = Field(0.005, ge=0, le=1, description="Seconds that a rewrite waits for others to join it.")
    rewriter_mode: Literal["auto", "join", "model"] = Field(
        "auto",
        description="Joins query, captions and comment, or asks the language model to merge them; "
        "auto: joins on compact, where the model was not shown to help.",
    )
    rewriter_max_new_tokens: int = Field(
        100, ge=1, le=512, description="Most tokens that the rewriter writes; its prompt may ask for fewer."
    )
    rewriter_max_words: int = Field(60, ge=1, le=512, description="Most words of a rewrite; its guard rejects more.")
    rewriter_queue: int = Field(32, ge=1, description="Most rewrites waiting; more are RESOURCE_EXHAUSTED.")

    # Orchestrator
    redis_url: str = Field(
        "embedded", description="`embedded` for a Valkey inside data_dir, or a redis://, rediss:// or unix:// URL."
    )
    default_strategy: Literal["rewrite", "rocchio", "preference", "fused"] = Field(
        "fused", description="Strategy of sessions that name none."
    )
    rocchio_weights: Literal["classic", "tuned"] = Field(
        "classic", description="Weights of rocchio: .8 .1 .1, or .8 .2 .1, chosen on one half of flickr8k/val."
    )
    fused_rewrite_weight: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Weight of the rewrite beside the query's 1 under fused; 0 asks no language model.",
    )
    default_page_size: int = Field(10, ge=1, le=1000, description="Hits of a round, for sessions that name no number.")
    round_timeout_s: float = Field(60.0, gt=0, le=3600, description="Seconds that a round may take as a whole.")
    round_lease_s: float = Field(
        10.0,
        gt=0,
        le=600,
        description="Seconds after which another replica may take over a round whose owner is silent.",
    )
    session_ttl_s: int = Field(604_800, ge=1, description="Seconds that a session is kept after its last change.")
    caption_cache_ttl_s: int = Field(2_592_000, ge=1, description="Seconds that a caption is kept in Redis.")
    rewrite_min_similarity: float = Field(
        0.3, ge=-1, le=1, description="Least cosine of rewrite and query in embedding space; below it the join is used."
    )

    @field_validator("data_dir", "models_dir")
    @classmethod
    def _expand_home(cls, path: Path) -> Path:
        return path.expanduser()

    @model_validator(mode="after")
    def _fill_from_profile(self) -> Self:
        choice = PROFILES[self.profile]
        for name in (
            "embedder_backend",
            "captioner_backend",
            "rewriter_backend",
            "captioner_prompt",
            "rewriter_prompt",
        ):
            if not getattr(self, name):
                self._fill(name, getattr(choice, name))
        if self.rewriter_mode == "auto":
            self._fill("rewriter_mode", "join" if self.rewriter_backend == "compact" else "model")
        if self.preset:
            for name in ("captioner_precision", "rewriter_precision"):
                if getattr(self, name) == "auto":
                    self._fill(name, PRESETS[self.preset].precision)
            if "caption_batch" not in self.model_fields_set:
                self._fill("caption_batch", PRESETS[self.preset].caption_batch)
        return self

    @model_validator(mode="after")
    def _fill_targets(self) -> Self:
        for name in ("orchestrator", "embedder", "captioner", "rewriter"):
            if not getattr(self, f"{name}_target"):
                self._fill(f"{name}_target", f"localhost:{getattr(self, f'{name}_port')}")
        return self

    def _fill(self, name: str, value: Any) -> None:
        """Sets what follows from other settings; it does not count as set, so that a copy works it out anew."""
        self.__dict__[name] = value

    def with_changes(self, **changes: Any) -> "Settings":
        """A copy with other values, for tests and the local stack.

        Raises InvalidArgument with reason BAD_SETTING, as `load_settings`.
        """
        return load_settings(**{**self.model_dump(include=self.model_fields_set), **changes})


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment and `.env`; keyword arguments go first.

    Raises InvalidArgument with reason BAD_SETTING and the variable's name in `field`, when a value cannot be used.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        problems = [_problem(dict(item)) for item in error.errors()]
        raise InvalidArgument(
            "bad settings: " + "; ".join(text for _, text in problems),
            reason="BAD_SETTING",
            field=problems[0][0],
            hint="correct it in the environment or in the file .env; .env.example explains every variable",
        ) from error


def _problem(item: dict[str, Any]) -> tuple[str, str]:
    """Name of the variable and one sentence, of one validation error."""
    name = ENV_PREFIX + "_".join(str(part) for part in item["loc"]).upper()
    return name, f"{name}={item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"


def env_example() -> str:
    """The text of `.env.example`: every variable with its meaning, commented out at its default."""
    lines = [
        "# Every setting of the Warmer services, at its default. Copy this file to .env and uncomment what you change;",
        "# the environment goes before .env. Generated by: python -m services.common.settings > .env.example",
    ]
    for name, field in Settings.model_fields.items():
        lines += ["", f"# {field.description}{_choices(field)}", _default_line(name, field)]
    return "\n".join(lines) + "\n"


def _choices(field: FieldInfo) -> str:
    values = getattr(field.annotation, "__args__", None)
    return f" One of: {', '.join(values)}." if values else ""


def _default_line(name: str, field: FieldInfo) -> str:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    if "shown_default" in extra:
        return f"# {ENV_PREFIX}{name.upper()}=  (default: {extra['shown_default']})"
    return f"# {ENV_PREFIX}{name.upper()}={field.default}"


if __name__ == "__main__":
    print(env_example(), end="")
