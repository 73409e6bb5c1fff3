// What the preparation takes, what it must know when it is compiled, and how its warps are grouped.
#pragma once

#include <braid/core/linear_attention.hpp>
#include <braid/cuda/time_order.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace braid::cuda {

/// Device pointers of the preparation. T is the type of q and k, G that of gate and beta.
template <class T, class G> struct PrepareArguments {
  const T* q = nullptr;     ///< [T, H, K]
  const T* k = nullptr;     ///< [T, H, K]
  const G* gate = nullptr;  ///< per channel [T, HV, K]; per head [T, HV]; none: null
  const G* beta = nullptr;  ///< [T, HV]; null for updates that use none
  const float* A_log = nullptr;    ///< [HV]; null for LogDecay
  const float* dt_bias = nullptr;  ///< per channel [HV, K]; per head [HV]; null for LogDecay
  int heads = 0, value_heads = 0;
  bool normalize = false, beta_logit = false;
  std::byte* records = nullptr;  ///< at the positions of `order`
  TimeOrder order = {};          ///< of the work items
  /// Flags of the records (time_order.hpp) where the recurrence runs beside; null: nobody looks before the kernel has ended.
  std::uint32_t* ready = nullptr;
  int readers = 1;            ///< blocks of the recurrence beside that read a record
  int state_flags = 0;        ///< behind the records' flags, of states that these blocks hand on
  /// With flags: how many items the groups have taken after their first ones, zero like all flags when the kernel starts. Null: items are dealt out in
  /// turn, and the kernel clears the flags.
  std::uint32_t* taken = nullptr;
  /// With flags: places that records share in turn (TimeOrder::place), 0: none. A multiple of the columns with `taken`, else of the groups: what decides
  /// whether a place is free was cleared by who asks, or before the kernel.
  int places = 0;
};

/// One row of the algebra's table with everything a kernel must know when it is compiled.
template <class T_, class G_, class Gate_, class Update_, int KeyDim, class Operand_> struct Cell {
  using T = T_;
  using G = G_;
  using Gate = Gate_;
  using Update = Update_;
  using Operand = Operand_;
  static constexpr int key_dim = KeyDim;
  static constexpr Strength strength = strength_of<Update_>();
  static constexpr Record record{KeyDim, strength_of<Update_>()};
  static constexpr bool unit_write = std::is_same_v<Update_, Additive>;
};

/// Warps of a group, which prepares one item after the other; groups in a block; whether each group has one more warp, which inverts and finds the next
/// item while the others go on. A block of several groups leaves no room for another kernel's on its multiprocessor: it runs beside the recurrence.
template <int Warps, int Groups = 1, bool Helped = false> struct PreparePolicy {
  static constexpr int warps = Warps, groups = Groups, registers = 168;
  static constexpr bool helped = Helped, beside = Groups > 1;
  static constexpr int threads = Groups * (warps + Helped) * 32;
  static constexpr int resident = beside ? 1 : 12 / Warps;  ///< blocks on a multiprocessor
  static_assert((Warps == 2 || Warps == 4) && resident * threads * registers <= 65536 && (beside || !Helped));
  static constexpr int spread_clocks = Helped ? 6000 : 12000;  ///< over which the groups start; a group takes about 13000 for an item
};
/// After the preparation comes the recurrence. Beside it: where few columns have a walk each, what counts is the time to its next record; else, how much
/// is done. Two warps an item exchange half as much as four.
using PrepareBefore = PreparePolicy<2>;
using PrepareSoon = PreparePolicy<4, 3>;
using PrepareMuch = PreparePolicy<2, 4, true>;

}  // namespace braid::cuda
