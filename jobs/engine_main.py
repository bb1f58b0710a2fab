"""The engine's process: one frozen model, its batch, and the threads that connect it with Redis. `manage.py engine`.

Threads: the model's (the main one) · intake · answers (writes events) · messages (keeps chat answers) · services ·
planner · pins · drains · heartbeat · small pools for preparing requests and loading adapters.
SIGTERM drains, for a deploy: no new request is taken, those not begun are handed back at once, live answers are
finished, for `drain_s` at most. SIGINT, and a second SIGTERM, stop after the step under way. Whatever is unfinished
then is handed back, and another engine goes on where this one stopped. One that an admin drains does the same and comes
back without its model, as a new process (jobs/engine_drains.py). A fault of the model's loop itself ends the
process with code 70: the supervisor starts a fresh one, which takes the requests over.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from jobs import stream, stream_redis
from jobs.devices import device_names
from jobs.engine_answers import Answers
from jobs.engine_budget import check_fits, needs_of
from jobs.engine_config import EngineConfig, config_from_settings
from jobs.engine_drains import AGAIN, EVERY_S, DrainWatch, begin_anew, is_kept_out
from jobs.engine_heartbeat import Heartbeat, engine_id
from jobs.engine_intake import Intake
from jobs.engine_leaving import hand_back
from jobs.engine_messages import Closer, DjangoMessages
from jobs.engine_pins import Pins
from jobs.engine_services import HANDLERS, Services
from jobs.engine_ticket import Tickets
from jobs.engine_vllm import DEVICE, load_vllm
from jobs.engine_writer import OUTCOMES, AnswerWriter
from jobs.nearest import NearestService
from jobs.planner import Planner
from ml.engine.serving import Serving
from ml.errors import ModelError, OutOfMemoryError, SpecError, UnavailableError

WAITING, READY = "waiting for the model", "ready"
_AHEAD = 16
"""Requests taken from the stream beyond the slots: enough to be prepared in time, few enough to leave others some."""
logger = logging.getLogger(__name__)


class EngineProcess:
    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._name = engine_id()
        self._stop, self._drain = threading.Event(), threading.Event()
        self._drain_until = 0.0
        self._comes_back = False
        """Whether it leaves only to give its memory back."""
        self._memory: dict[str, Any] = {"needs_bytes": 0}
        """What it reserves, of how much, on which GPU by its CUDA number; of the latter two nothing before it loads."""
        self._engine: Serving | None = None
        self._state, self._device = "starting", DEVICE if config.vllm else config.device
        self._labels: dict[str, str] = {}
        """What people call each artifact that was asked for."""
        self._ended = dict.fromkeys(OUTCOMES, 0)
        """Requests by how they ended, counted by the writer."""
        if config.redis_url:
            stream_redis.configure(config.redis_url)
        self._heartbeat = Heartbeat(self._name, base=config.base, describe=self._describe)

    def stop(self, *_: object) -> None:
        """Ends after the step under way. Any thread, or a signal."""
        self._comes_back = False
        self._stop.set()

    def drain(self, *_: object) -> None:
        """Ends when the live answers are done; at once when nothing is served yet, or when asked again."""
        is_asked_again = self._drain.is_set() and not self._comes_back
        if is_asked_again or self._state not in (READY, stream.DRAINING):
            self._stop.set()
        self._comes_back = False
        self._drain.set()

    def leave(self) -> None:
        """As `drain`, to come back without the model. Unless it ends for good already."""
        if not self._drain.is_set():
            self._comes_back = True
            self._drain.set()

    def listen(self) -> None:
        """To signals; in the main thread."""
        signal.signal(signal.SIGTERM, self.drain)
        signal.signal(signal.SIGINT, self.stop)

    def run(self) -> int:
        """Serves until stopped. Returns the exit code; AGAIN when the caller shall `begin_anew`."""
        self._heartbeat.start()
        try:
            self._engine = self._load()
            if self._engine is not None:
                self._serve(self._engine)
            code = 0
        except (ModelError, OutOfMemoryError, SpecError) as error:
            logger.error("%s %s", error.message, error.hint)
            code = 69
        except Exception:
            logger.exception("the engine stops")
            code = 70
        finally:
            self._heartbeat.stop()
            logger.info("engine %s has stopped", self._name)
        # Asked for last, since a signal that ends it for good may come at any time.
        return AGAIN if self._comes_back and not code else code

    def _describe(self) -> dict[str, Any]:
        engine = self._engine
        fields: dict[str, Any] = {
            "state": self._state, "device": self._device, "quantization": self._config.quantization, **self._memory
        }  # fmt: skip
        if engine is None:
            return {**fields, "slots": self._config.n_slots, "length": self._config.length, "rows": [], "step": 0,
                    "step_ms": 0.0, "tokens_per_s": 0.0, "queue": 0, "resident": [], "ended": self._ended}  # fmt: skip
        shot = engine.snapshot()
        return {
            **fields, "slots": shot.slots, "length": shot.length, "rows": shot.rows, "step": shot.step,
            "step_ms": engine.meter.step_ms, "tokens_per_s": engine.meter.tokens_per_s, "queue": shot.queue,
            "resident": [{"label": self._labels.get(r["artifact"], ""), **r} for r in engine.resident()],
            "resident_by_form": engine.resident_by_form(), "fingerprint": engine.backbone.fingerprint,
            "shared_prefixes": shot.shared_prefixes, "totals": shot.totals, "ended": self._ended,
            "decoding": shot.decoding,
        }  # fmt: skip

    def _load(self) -> Serving | None:
        """The engine, once it may serve and the model's folder is there; None when stopped before."""
        if not self._may_serve():
            return None
        folder = self._config.models_dir / self._config.base
        while not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
            if self._state != WAITING:
                logger.warning("waiting for the base model in %s (make models fetches the starter models)", folder)
                self._state = WAITING
            if self._stop.wait(1.0):
                return None
        self._state = "loading the model"
        if self._config.vllm:
            return load_vllm(
                self._config.vllm, folder, artifact_folder=self._config.artifact_folder, n_slots=self._config.n_slots,
                length=self._config.length, wait=self._wait_for_server,
            )  # fmt: skip
        import torch

        from ml.backbone import load_backbone, model_folder
        from ml.devices import device_named, dtype_on
        from ml.engine.engine import Engine

        torch.set_num_threads(self._config.threads or os.cpu_count() or 1)
        folder = model_folder(self._config.models_dir, self._config.base)
        self._device = device_named(self._config.device)
        self._check_memory(folder)
        backbone = load_backbone(
            folder, device=self._device, dtype=dtype_on(self._device), quantization=self._config.quantization,
            families=("decoder",),
        )  # fmt: skip
        return Engine(
            backbone, artifact_folder=self._config.artifact_folder, n_slots=self._config.n_slots,
            length=self._config.length, own_bytes=self._config.own_bytes,
            is_packed=self._config.is_packed, is_traced=self._config.is_traced,
        )  # fmt: skip

    def _may_serve(self) -> bool:
        """Waits while the engine is drained; False when stopped before."""
        while is_kept_out(self._config.base, unknown=self._state == stream.DRAINED):
            if self._state != stream.DRAINED:
                logger.info("drained: nothing is loaded until an admin lets it serve again")
                self._state = stream.DRAINED
            if self._stop.wait(EVERY_S):
                return False
        return True

    def _check_memory(self, folder: Path) -> None:
        """Raises OutOfMemoryError."""
        from ml.devices import dtype_on
        from ml.plan.verdicts import free_bytes, total_bytes

        n_slots, length = self._config.n_slots, self._config.length
        needs = needs_of(
            folder, n_slots=n_slots, length=length, n_bytes=dtype_on(self._device).itemsize,
            quantization=self._config.quantization,
        )  # fmt: skip
        free = free_bytes(self._device)
        check_fits(self._config.base, needs, free=free, n_slots=n_slots, length=length)
        self._memory = {"needs_bytes": needs.total, "total_bytes": total_bytes(self._device)}
        if self._device != "cpu":
            self._memory["gpu"] = device_names()[0]

    def _wait_for_server(self, state: str) -> bool:
        self._state = state
        return self._stop.wait(1.0)

    def _serve(self, engine: Serving) -> None:
        tickets = Tickets()
        base = self._config.base
        writer = AnswerWriter(
            self._name, base, lambda request_id, state: answers.drop(request_id, state), ended=self._ended
        )  # fmt: skip
        closer = Closer(tickets, writer, self._config.messages or DjangoMessages())
        answers = Answers(engine, self._name, tickets, writer, closer, labels=self._labels)
        intake = Intake(
            self._name, base, tickets, limit=self._config.n_slots + _AHEAD, writer=writer, take=answers.take,
            refuse=answers.refuse, cancel=answers.cancel,
        )  # fmt: skip
        planner, nearest = Planner(self._config.models_dir), NearestService()
        services = Services(
            self._name, base, {**HANDLERS, "count_tokens": self._count_tokens},
            later={"plan": planner.take, "nearest": nearest.take},
        )  # fmt: skip
        pins = Pins(engine, self._config.production or (lambda _: []))
        drains = DrainWatch(base, self.leave)
        parts = (writer, closer, intake, planner, services, pins, drains)
        for part in parts:
            part.start()
        self._state = READY
        logger.info("engine %s serves %s: %d slots of %d tokens", self._name, base, self._config.n_slots,
                    engine.scheduler.length)  # fmt: skip
        try:
            while not self._stop.is_set():
                if self._drain.is_set() and self._is_drained(answers, intake, services, tickets):
                    break
                engine.wait(0.2)
                answers.handle(engine.step())
        finally:
            self._state = stream.STOPPING
            drains.stop()
            pins.stop()
            intake.stop()
            answers.stop()
            services.stop()
            planner.stop()
            nearest.stop()
            closer.stop()
            writer.stop()
        # Not after a fault, which one of these requests may have caused: then each new try is counted.
        hand_back(self._name, base, tickets.all())

    def _is_drained(self, answers: Answers, intake: Intake, services: Services, tickets: Tickets) -> bool:
        """Between two steps, while draining. The first time, all that is not begun is given up."""
        if self._state == READY:
            self._state, self._drain_until = stream.DRAINING, time.monotonic() + self._config.drain_s
            intake.close()
            services.end()
            waiting = answers.waiting()
            hand_back(self._name, self._config.base, waiting)
            for ticket in waiting:
                answers.drop(ticket.id, "handed back")
            logger.info("draining: %d answers are finished, for %g s at most", len(tickets), self._config.drain_s)
        return not len(tickets) or time.monotonic() > self._drain_until

    def _count_tokens(self, payload: dict[str, Any]) -> dict[str, Any]:
        from ml.data.chat import prompt_ids

        if self._engine is None:
            raise UnavailableError("The engine is starting.", hint="Try again in some seconds.")
        n = len(prompt_ids(self._engine.backbone.tokenizer, payload["messages"]))
        return {"tokens": n, "limit": self._engine.scheduler.length}


def main(base: str = "") -> int:
    """`manage.py engine`; Django is set up. Returns the exit code, or begins anew. Raises ModelError."""
    process = EngineProcess(config_from_settings(base))
    process.listen()
    code = process.run()
    if code == AGAIN:
        begin_anew()
    return code
