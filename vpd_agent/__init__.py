"""A feedback-agnostic trainer: VPD, SDPO, SDPG and GRPO behind one interface."""
