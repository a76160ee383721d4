"""The position-based model of clax (JAX), fitted to counts by (item, position) with Adam on the whole log.

It runs in a separate environment; options are read as JSON, the result is written as JSON. The likelihood is that of
the counts, from the click probabilities of clax's model: clax's own trainer takes one row for each impression.
"""

import json
import sys
import time

import jax
import jax.numpy as jnp
import optax
from clax import PositionBasedModel
from flax import nnx

jax.config.update("jax_enable_x64", True)


def main() -> None:
    """Fit the model, and write the examination of each position relative to the first one."""
    options = json.loads(sys.stdin.readline())
    item, position, n, c = (jnp.array(options[name]) for name in ("item", "position", "impressions", "clicks"))
    n, c = n.astype(jnp.float64), c.astype(jnp.float64)
    positions = int(position.max()) + 1
    model = PositionBasedModel(positions=positions, query_doc_pairs=int(item.max()) + 1, rngs=nnx.Rngs(1))
    batch = {"positions": position, "query_doc_ids": item, "mask": jnp.ones(len(item), bool)}
    graph, state = nnx.split(model)
    state = jax.tree.map(lambda value: value.astype(jnp.float64), state)
    steps = options["steps"]
    optimizer = optax.adam(optax.cosine_decay_schedule(0.3, steps))

    def loss(state: nnx.State) -> jax.Array:
        log_p = nnx.merge(graph, state).predict_conditional_clicks(batch).reshape(-1)
        return -jnp.sum(c * log_p + (n - c) * jnp.log1p(-jnp.exp(jnp.minimum(log_p, -1e-9)))) / jnp.sum(n)

    @jax.jit
    def fitted(state: nnx.State) -> tuple[nnx.State, jax.Array]:
        def step(
            carry: tuple[nnx.State, optax.OptState], _: None
        ) -> tuple[tuple[nnx.State, optax.OptState], jax.Array]:
            state, memory = carry
            value, gradient = jax.value_and_grad(loss)(state)
            change, memory = optimizer.update(gradient, memory, state)
            return (optax.apply_updates(state, change), memory), value

        (state, _), values = jax.lax.scan(step, (state, optimizer.init(state)), None, length=steps)
        return state, values[-1]

    compiled = fitted.lower(state).compile()
    begun, cpu = time.perf_counter(), time.process_time()
    state, last = jax.block_until_ready(compiled(state))
    took = {"seconds": time.perf_counter() - begun, "cpu_s": time.process_time() - cpu}
    places = {"positions": jnp.arange(positions), "mask": jnp.ones(positions, bool)}
    theta = nnx.merge(graph, state).examination.prob(places).reshape(-1)
    print(json.dumps({"curve": (theta / theta[0]).tolist(), "loss": float(last), **took}))


if __name__ == "__main__":
    main()
