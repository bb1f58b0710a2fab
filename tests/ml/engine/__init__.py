"""The seven things that must hold of the engine, and where they are tested.

1. Every method alone is PEFT's own single-row forward: test_exact, test_shapes (eight architectures), test_precision
   (bf16, four bits).
2. Any mix, any order, reused and poisoned slots: each row is as alone: test_schedules, over every form and way of
   asking, with slow loads, tiny budgets, cancels, deadlines and adapters that break; test_soak, thousands of them.
3. LoRA rows are PEFT's `adapter_names`: test_exact; matrices in entries that rows share: test_lora.
4. A prefix found is one computed, a prompt in chunks is one read whole: test_exact, test_prefixes, and as settings of
   every schedule of test_schedules.
5. Artifacts are those of plain peft: they are saved by it in the conftest, and trained ones are loaded by it in
   tests/ml/test_matrix.
6. The same text under two tasks or teams shares nothing: test_exact, test_prefixes, test_beginnings, and what every row
   of a schedule copied in test_schedules.
7. A cancel at any step leaks no slot: test_schedules (every step of three forms; random ones of all), test_soak.
"""
