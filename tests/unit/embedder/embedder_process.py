"""An embedder with a tiny encoder as a process. Arguments: data folder, socket, and `turned` for the other encoder."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

if __name__ == "__main__":
    from tiny_encoder import TinyEncoder, TurnedEncoder

    from services.common.server import serve
    from services.common.settings import load_settings
    from services.embedder.service import build

    settings = load_settings(data_dir=sys.argv[1], decode_workers=1, threads=1)
    address = f"unix:{sys.argv[2]}"
    encoder = TurnedEncoder() if sys.argv[3:] == ["turned"] else TinyEncoder()
    sys.exit(asyncio.run(serve(settings, "embedder", address, lambda s: build(s, load=lambda _: encoder))))
