"""FastAPI endpoints without any work, as the baseline of Tally's own: `python -m benchmarks.bare PORT`."""

import sys

import uvicorn
from fastapi import FastAPI, Request

app = FastAPI()


@app.get("/{interaction_id}")
async def get_path(interaction_id: str) -> dict[str, str]:
    """Return the path."""
    return {"interaction_id": interaction_id}


@app.post("/{interaction_id}")
async def post_body(interaction_id: str, request: Request) -> dict[str, str]:
    """Read the body, and return the path."""
    await request.body()
    return {"interaction_id": interaction_id}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_config=None, access_log=False)
