"""The settings that every technique has. A technique may bring its own default for any of them."""

from __future__ import annotations

from ml.specs.fields import Field

COMMON_FIELDS: tuple[Field, ...] = (
    Field(name="steps", label="Steps", kind="int", default=100, low=1, high=1_000_000,
          help="Optimizer steps. Each sees one batch of rows."),
    Field(name="batch_size", label="Rows per step", kind="int", default=16, low=1, high=4096,
          help="Rows whose gradients are added up before the weights move."),
    Field(name="learning_rate", label="Learning rate", kind="float", default=1e-3, low=1e-8, high=10,
          help="The most important number. Each technique brings its own default."),
    Field(name="schedule", label="Schedule", kind="choice", default="cosine",
          choices=("cosine", "linear", "constant"), advanced=True, help="How the learning rate falls."),
    Field(name="warmup_ratio", label="Warm-up", kind="float", default=0.05, low=0, high=1, advanced=True,
          help="Share of the steps over which the learning rate rises from zero."),
    Field(name="weight_decay", label="Weight decay", kind="float", default=0.0, low=0, high=1, advanced=True,
          help="AdamW's decoupled weight decay on the trained weights."),
    Field(name="max_grad_norm", label="Clip gradients at", kind="float", default=1.0, low=0.001, high=1000,
          advanced=True, help="Largest L2 norm of the gradient."),
    Field(name="micro_batch_size", label="Rows at once", kind="int", default=8, low=1, high=4096, advanced=True,
          help="Rows in one forward pass; smaller needs less memory and gives the same result."),
    Field(name="max_length", label="Longest row", kind="int", default=512, low=8, high=131_072, unit="tokens",
          advanced=True, help="Prompt and answer together; longer prompts are cut at the start."),
    Field(name="group_by_length", label="Group by length", kind="bool", default=True, advanced=True,
          help="Batches of rows of like length, in an order drawn from the seed: less padding, faster steps."),
    Field(name="optimizer", label="Optimizer", kind="choice", default="adamw",
          choices=("adamw", "paged_adamw", "adamw_8bit"), advanced=True,
          help="AdamW; with states that move out of a full GPU (paged); or with 8-bit states. The last two need CUDA "
               "and are plain AdamW elsewhere."),
    Field(name="precision", label="Precision", kind="choice", default="auto", choices=("auto", "float32", "bfloat16"),
          advanced=True, help="What the frozen model computes in. Auto: bfloat16 where the hardware has it."),
    Field(name="gradient_checkpointing", label="Gradient checkpointing", kind="bool", default=False, advanced=True,
          help="Keep only each layer's input and compute the rest again on the way back: far less memory, a third "
               "slower."),
    Field(name="eval_every", label="Evaluate every", kind="int", default=50, low=1, high=1_000_000, unit="steps",
          advanced=True, help="Steps between two looks at the validation rows."),
    Field(name="eval_rows", label="Rows to evaluate", kind="int", default=100, low=0, high=100_000, advanced=True,
          help="Validation rows per look; the test split is measured once, with up to as many rows."),
    Field(name="keep_best", label="Keep the best", kind="bool", default=True, advanced=True,
          help="Save the weights of the best look at the validation rows; off: those of the last step."),
    Field(name="patience", label="Stop early after", kind="int", default=0, low=0, high=1000, unit="looks",
          advanced=True, help="Looks at the validation rows without improvement before the run ends; 0: never."),
    Field(name="flat_steps", label="Flat loss after", kind="int", default=100, low=0, high=1_000_000, unit="steps",
          advanced=True, help="Stop with an explanation when the loss has not fallen at all by then; 0: never."),
    Field(name="on_out_of_memory", label="Out of memory", kind="choice", default="stop", choices=("stop", "halve"),
          advanced=True, help="Stop with advice, or go on with half the rows at once, which gives the same result."),
    Field(name="checkpoint_every", label="Checkpoint every", kind="int", default=25, low=1, high=1_000_000,
          unit="steps", advanced=True, help="Steps between two checkpoints; a killed run resumes at the last one."),
    Field(name="seed", label="Seed", kind="int", default=17, low=0, high=2**31 - 1, advanced=True,
          help="Fixes the data order and every random number."),
)  # fmt: skip
