// The whole library on the CPU. braid/io/*.hpp (published checkpoints, tokenizer) and braid/train/*.hpp are included by name.
#pragma once

#include <braid/core/batch.hpp>
#include <braid/core/gate.hpp>
#include <braid/core/linear_attention.hpp>
#include <braid/core/random.hpp>
#include <braid/core/update.hpp>
#include <braid/cpu/backend.hpp>
#include <braid/models/causal_lm.hpp>
#include <braid/models/presets.hpp>
#include <braid/version.hpp>
