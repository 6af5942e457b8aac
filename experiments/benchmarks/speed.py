"""A Lightning callback that measures the speed of training. Needs torch and Lightning alone."""

import time
from typing import Any

import torch
from pytorch_lightning import Callback


class Speed(Callback):
    """Counts targets and seconds of training after a warm-up, and ends the training.

    Args:
        seconds: of training to measure, after the warm-up.
        warm_up: steps that are not measured.
        profile_steps: profile so many steps after the warm-up instead, then end the training.
    """

    def __init__(self, seconds: float, warm_up: int = 5, profile_steps: int = 0) -> None:
        self.seconds, self.warm_up, self.profile_steps = seconds, warm_up, profile_steps
        self.profiler: Any = None
        self.steps = 0
        self.positions: Any = 0  # a tensor on the device: reading it in each step would wait for the device
        self.paused = 0.0  # seconds that do not count, of evaluations
        self.warm = (0.0, 0)  # seconds and positions at the end of the warm-up

    def elapsed(self) -> float:
        """Seconds of training so far, once the device has done its work."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - self.began - self.paused

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock."""
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the step's targets."""
        self.steps += 1
        self.positions = self.positions + (batch.target_weight != 0).sum()
        if self.steps == self.warm_up:
            self.warm = (self.elapsed(), int(self.positions))
            if self.profile_steps:
                self.profiler = torch.profiler.profile()
                self.profiler.start()
        elif self.profiler and self.steps == self.warm_up + self.profile_steps:
            self.elapsed()
            self.profiler.stop()
            trainer.should_stop = True
        elif not self.profiler and self.steps > self.warm_up and self._is_over():
            trainer.should_stop = True

    def positions_per_second(self) -> float:
        """Of the measured steps; 0 where the training ended within the warm-up."""
        seconds, positions = self.elapsed() - self.warm[0], int(self.positions) - self.warm[1]
        return positions / seconds if self.steps > self.warm_up else 0.0

    def slowest_operators(self, count: int) -> list[dict[str, Any]]:
        """Return the profiled operators, or a GPU's kernels, by their own time in milliseconds a step."""
        events = [(e, e.self_cpu_time_total) for e in self.profiler.key_averages()]
        if torch.cuda.is_available():  # an operator's device time is that of its kernels, which are events, too
            kernels = [e for e, _ in events if e.device_type != torch.autograd.DeviceType.CPU]
            events = [(e, e.self_device_time_total) for e in kernels if not getattr(e, "is_user_annotation", False)]
        total = sum(time_us for _, time_us in events) or 1.0
        return [
            {
                "operator": event.key[:60],
                "ms a step": time_us / 1000 / self.profile_steps,
                "share": time_us / total,
                "calls a step": event.count / self.profile_steps,
            }
            for event, time_us in sorted(events, key=lambda pair: -pair[1])[:count]
        ]

    def _is_over(self) -> bool:
        return time.perf_counter() - self.began - self.paused - self.warm[0] >= self.seconds
