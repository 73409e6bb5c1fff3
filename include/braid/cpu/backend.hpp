// All operations of the CPU backend.
#pragma once

#include <braid/cpu/attention.hpp>
#include <braid/cpu/context.hpp>
#include <braid/cpu/cross_entropy.hpp>
#include <braid/cpu/elementwise.hpp>
#include <braid/cpu/embedding.hpp>
#include <braid/cpu/gated_norm.hpp>
#include <braid/cpu/latent_attention.hpp>
#include <braid/cpu/linear.hpp>
#include <braid/cpu/linear_attention.hpp>
#include <braid/cpu/moe.hpp>
#include <braid/cpu/optimizer.hpp>
#include <braid/cpu/rms_norm.hpp>
#include <braid/cpu/rope.hpp>
#include <braid/cpu/short_conv.hpp>
#include <braid/cpu/slots.hpp>
#include <braid/cpu/swiglu.hpp>
