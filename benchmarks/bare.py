"""A FastAPI endpoint that does nothing: what Tally's own are compared with. `python -m benchmarks.bare PORT`."""

import sys

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.get("/{interaction_id}")
async def nothing(interaction_id: str) -> dict[str, str]:
    """Answer the path."""
    return {"interaction_id": interaction_id}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_config=None, access_log=False)
