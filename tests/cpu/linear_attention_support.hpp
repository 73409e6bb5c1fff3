// Runs a problem through the reference or through a form of the CPU backend.
#pragma once

#include "cpu/linear_attention_problem.hpp"

#include <braid/cpu/linear_attention.hpp>
#include <braid/reference/linear_attention.hpp>

namespace braid::test {

template <class Gate, class Update> LinearAttentionResults<double> reference_results(const LinearAttentionProblem<double>& p) {
  return results_of(
      p, [](auto in, auto out) { reference::linear_attention<Gate, Update>(in, out); },
      [](auto in, auto out) { reference::linear_attention_backward<Gate, Update>(in, out); });
}

template <class Gate, class Update, class Form, class T>
LinearAttentionResults<T> cpu_results(cpu::Context& ctx, const LinearAttentionProblem<T>& p) {
  return results_of(
      p, [&](auto in, auto out) { cpu::linear_attention<Gate, Update, Form>(ctx, in, out); },
      [&](auto in, auto out) { cpu::linear_attention_backward<Gate, Update, Form>(ctx, in, out); });
}

}  // namespace braid::test
