"""Groups of settings that several assets are made from."""

from __future__ import annotations

from chatllama_pipeline.lineage.declaring.asset import keys

BASE = (
    "model gguf_file tokenizer_path trust_remote_code template_options scratch_family "
    "scratch_hidden_size scratch_layers scratch_heads scratch_vocabulary"
)
ADAPTER = "peft_enable lora.r lora.lora_alpha lora.lora_dropout lora.target_modules lora.use_rslora"
SUPERVISED = (
    "batch_size lr warmup_ratio weight_decay max_grad_norm epochs max_steps evaluations precision "
    "early_stopping keep_weights attention compile length_bucketing "
)
OPTIMIZER = SUPERVISED + ADAPTER
SPLIT = keys("data", "validation_share test_share max_length max_reply_length")
# Of who answers, all that can change an answer; speed, money and keys cannot.
ASKED = "provider model base_url style temperature max_tokens omit extra_body"
# A writer's later questions follow from its earlier answers: in batches all is asked at once.
WRITER = (*keys("llm", ASKED + " batch"), *keys("llm.writer", ASKED + " batch"))
JUDGED = ("rubric", *keys("llm", ASKED), *keys("llm.judge", ASKED))
EVALUATION_JUDGE = (*JUDGED, *keys("evaluation.judge", ASKED))
REWARD_JUDGE = (*JUDGED, "llm.judge_samples")
# A judge's questions don't follow from its answers: in batches they are the same.
BATCHED = ("llm.batch",)

# What a method that is trained as SFT is goes by, beside what is its alone.
METHOD = SUPERVISED + "peft_enable"
# What the SFT actor is improved by, whatever the method.
REWARDS = keys("rewards", "weights file")
CHEATS = ("rewards.cheat_prompts", "checks.max_cheat_wins")
WATCH = keys("trainer_config", "watch_every watch_prompts watch_falls")
IMPROVEMENT = (
    "seed",
    "improve_by",
    *keys("actor_config", "max_sequence_length max_tokens thoughts " + ADAPTER),
    *keys("critic_config", "trunk " + ADAPTER),
    *keys(
        "trainer_config",
        "actor_lr critic_lr actor_eps_clip critic_eps_clip beta_s gamma_discounted "
        "gae_lambda kl_beta kl_target kl_horizon update_kl_limit value_coefficient "
        "score_clip missing_eos_penalty max_grad_norm temperature num_episodes "
        "max_timesteps update_timesteps num_examples batch_size epochs precision collapse "
        "collapse_share attention peft_enable replies_per_prompt",
    ),
    *WATCH,
    *REWARDS,
    *CHEATS,
    *keys("dpo_config", "beta label_smoothing rpo_alpha " + METHOD),
    *keys("kto_config", "beta desirable_weight undesirable_weight " + METHOD),
    *keys("best_of_n_config", "replies_per_prompt prompts temperature " + METHOD),
)

# What tells where the actor's tokenizer is.
TOKENIZER = keys("actor_config", "model gguf_file tokenizer_path")
OF_GGUF = ("release.gguf", "checks.min_gguf_agreement")
