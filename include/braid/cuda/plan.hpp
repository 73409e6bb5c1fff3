// What a prefill call needs beside its arrays: one description used by the size query, the checks and the launch. Host-testable.
#pragma once

#include <braid/cuda/record.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace braid::cuda {

/// Whether long sequences are cut into segments that are walked at once (recurrence_arguments.hpp), and few records formed by more warps. Outputs agree
/// within rounding.
enum class Split : unsigned char {
  automatic,  ///< when sequences x heads leave most of a large card idle; a sequence's last bits may depend on the shape of the batch
  by_length,  ///< every sequence beyond 16384 tokens, whatever else is in the batch: its bits depend on itself alone
  never       ///< its bits depend on itself alone
};

/// Tokens of a segment, a multiple of 128; 0: sequences stay whole. Depends on the shape alone, so the workspace is known beforehand.
constexpr Index segment_tokens(Split split, Index tokens, Index sequences, Index value_heads, Index value_dim) {
  if (split == Split::never) return 0;
  if (split == Split::by_length) return tokens > 16384 ? 16384 : 0;
  // The summary launch has twice the blocks of a plain walk (M beside c) for each segment: that many segments a sequence fill 132
  // multiprocessors. Below four, walking twice costs more than it saves.
  const Index walks = std::max<Index>(1, sequences * value_heads), tiles = std::max<Index>(1, value_dim / value_tile);
  const Index length = tokens / std::max<Index>(1, sequences), steps = length / chunk_tokens;
  Index count = std::min(132 / (2 * walks * tiles), length / 512);
  while (5 * count * count > 3 * steps) --count;  // one more costs 2 us, as much as two walks of steps / count then shrink (H100)
  // What is saved is steps of 0.58 us. What it costs: no walk runs beside the preparation, 0.028 us a chunk, and 7 us to join the segments (H100).
  return count < 4 || 580 * (steps - 2 * steps / count) < 28 * steps * walks + 7000 ? 0 : (length / count + 127) / 128 * 128;
}

/// Whether the preparation and the recurrence run at the same time, each on multiprocessors of its own (on one they only slow each other), and how:
/// the blocks of the recurrence walk `columns` of the order of time (time_order.hpp) with `tiles` tiles of values each, beside `preparing` multiprocessors;
/// no columns: one kernel after the other. Five of eleven multiprocessors at most walk single tiles, four of eleven pairs of tiles: with more, the rest
/// would prepare less than these can read. A call with more walks than that shares them evenly, if its sequences are long enough on
/// average that states, loaded and stored for each, do not matter.
///
/// Places of records are used again, so that they stay in L2, for pairs of tiles. For single tiles, which read each record twice, only where memory
/// would be too slow otherwise (H100, but not H200): records are written to it and read again, 3106 bytes a token and head with all else, 32 tokens of 32 heads
/// in 0.87 us on 132 multiprocessors: 3.65e6 bytes a microsecond, which 0.875 of what memory could move must cover. Then it is no good to prepare
/// much faster than is read: records pile up until there is no place, and those that are due come late.
struct SideBySide {
  int tiles = 1;
  Index columns = 0, preparing = 0;
  /// Few enough columns, each of one walk, that what counts is when their next records come (PrepareSoon). More warps form a record, and add in another
  /// order, so not where bits are to be those of any other batch.
  bool soon = false;
  bool counted = false;       ///< groups take their items from a counter; where the first record counts most, its `memset` would take too long
  bool reuse_places = false;
  static constexpr Index most_columns = 64;
  static constexpr Index least_walk = 384;   ///< average tokens of a sequence that pay for sharing columns
  static constexpr Index most_places = 576;  ///< that stay in L2; 720 cost a twentieth, and with some pages of memory 640 do; 440 keep groups waiting
  /// How many places records share, a multiple of `unit`.
  constexpr static Index places(Index unit) { return std::max<Index>(1, (most_places + unit / 2) / unit) * unit; }

  template <class Device>
  constexpr static SideBySide make(const Device& device, Index tokens, Index sequences, Index value_heads, Index value_dim, Split split = Split::automatic) {
    const Index multiprocessors = device.multiprocessors, walks = sequences * value_heads, tiles = value_dim / value_tile, pairs = tiles / 2;
    const bool slow_memory = 0.875 * device.memory_bytes_per_us < 3.65e6 * static_cast<double>(multiprocessors) / 132;
    const Index most = std::min(most_columns, walks);
    if (11 * walks * tiles <= 5 * multiprocessors) {
      const bool few = 16 * walks * tiles <= 5 * multiprocessors, soon = few && split == Split::automatic;
      const Index enough = few ? std::max(7 * walks, 4 * multiprocessors / 11) : slow_memory ? 3 * walks : multiprocessors;
      return {1, most, std::min(enough, multiprocessors - most * tiles), soon, !soon, slow_memory};
    }
    if (tiles % 2 != 0) return {};
    const Index columns = std::min(most, 4 * multiprocessors / 11 / pairs);
    if (columns < walks && tokens < least_walk * sequences) return {};
    const bool soon = columns == walks && 18 * columns * pairs <= 5 * multiprocessors && split == Split::automatic;
    return {2, columns, multiprocessors - columns * pairs, soon, true, true};
  }
};

/// Average tokens of a sequence up to which walks after the preparation share a multiprocessor as two blocks of a tile each, of which one loads and stores
/// states while the other walks. Longer ones are walked in pairs of tiles, which read a record once.
inline constexpr Index short_walk = 256;

namespace detail {
struct Card {
  int multiprocessors;
  double memory_bytes_per_us;
};
inline constexpr Card h100{132, 3.35e6}, h200{132, 4.9e6};
}  // namespace detail
static_assert(SideBySide::make(detail::h200, 8192, 1, 20, 128).tiles == 1 && SideBySide::make(detail::h200, 8192, 1, 20, 128).soon);
static_assert(!SideBySide::make(detail::h200, 8192, 1, 20, 128, Split::never).soon && SideBySide::make(detail::h200, 8192, 1, 20, 128, Split::never).counted);
static_assert(SideBySide::make(detail::h100, 8192, 1, 24, 128).tiles == 1 && SideBySide::make(detail::h100, 8192, 1, 24, 128).preparing == 72);
static_assert(SideBySide::make(detail::h200, 8192, 1, 24, 128).preparing == 84);
static_assert(SideBySide::make(detail::h200, 8192, 1, 30, 128).tiles == 1 && SideBySide::make(detail::h200, 8192, 1, 31, 128).tiles == 2);
static_assert(SideBySide::make(detail::h200, 8192, 1, 33, 128).tiles == 2 && SideBySide::make(detail::h200, 8192, 1, 33, 128).columns == 33);
static_assert(SideBySide::make(detail::h200, 8192, 1, 96, 128).columns == 48 && SideBySide::make(detail::h200, 8192, 1, 96, 256).columns == 24);
static_assert(SideBySide::make(detail::h200, 2048, 8, 96, 128).columns == 0);
static_assert(SideBySide::places(48) == 576 && SideBySide::places(300) == 600 && SideBySide::places(2000) == 2000);
static_assert(!SideBySide::make(detail::h200, 8192, 1, 24, 128).reuse_places && SideBySide::make(detail::h200, 8192, 1, 32, 128).reuse_places);
static_assert(SideBySide::make(detail::h100, 8192, 1, 60, 64).columns == 60 && SideBySide::make(detail::h100, 8192, 1, 61, 64).columns == 0);

/// Sections of the workspace of `linear_attention`, in bytes from its start: the records, flags of each, maps and
/// states of segments, a copy of the initial states.
struct PrefillPlan {
  Index slot_count = 0;   ///< records per value head
  Index record_bytes = 0;
  Index segment_tokens = 0, segments = 0;
  std::size_t ready = 0, handed = 0, maps = 0, states = 0, initial = 0;
  std::size_t bytes = 0;  ///< of the whole workspace

  constexpr static PrefillPlan make(Record record, Index tokens, Index sequences, Index value_heads, Index value_dim, Split split) {
    PrefillPlan plan;
    plan.slot_count = slots(tokens, sequences);
    plan.record_bytes = record.bytes();
    plan.segment_tokens = cuda::segment_tokens(split, tokens, sequences, value_heads, value_dim);
    plan.segments = plan.segment_tokens == 0 ? 0 : tokens / plan.segment_tokens + sequences;
    const Index records = plan.slot_count * value_heads, pairs = plan.segments * value_heads;
    auto take = [&plan](Index bytes) {
      const std::size_t at = plan.bytes;
      plan.bytes += (static_cast<std::size_t>(bytes) + 255) / 256 * 256;
      return at;
    };
    take(records * record.bytes());
    const Index columns = plan.segments > 0 ? 0 : std::min(SideBySide::most_columns, sequences * value_heads);
    plan.ready = take((records * (value_dim / value_tile) + columns * (value_dim / 16) + 1) * static_cast<Index>(sizeof(std::uint32_t)));
    plan.handed = take(columns * record.key_dim * value_dim * static_cast<Index>(sizeof(float)));
    plan.maps = take(pairs * record.key_dim * record.key_dim * static_cast<Index>(sizeof(float)));
    plan.states = take(pairs * record.key_dim * value_dim * static_cast<Index>(sizeof(float)));
    plan.initial = take((plan.segments == 0 ? 0 : sequences) * value_heads * record.key_dim * value_dim * static_cast<Index>(sizeof(float)));
    return plan;
  }
};

static_assert(segment_tokens(Split::automatic, 131072, 1, 4, 128) == 16384 && segment_tokens(Split::automatic, 8192, 1, 16, 128) == 0);
static_assert(segment_tokens(Split::automatic, 2048, 1, 4, 128) == 512 && segment_tokens(Split::automatic, 2048, 1, 8, 128) == 0);
static_assert(segment_tokens(Split::automatic, 8192, 0, 0, 0) == 768);  // answers before anybody has checked the shape
static_assert(PrefillPlan::make({128, Strength::one}, 8192, 1, 64, 128, Split::automatic).bytes == 257ull * 64 * (29184 + 8) + 64 * (32 + 65536) + 256);

}  // namespace braid::cuda
