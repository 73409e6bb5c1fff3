// What every recurrence kernel (portable, Hopper) takes beside the records, and which part of the work a block does.
//
// A sequence may be walked by one block from end to end, or cut into segments of `segment_tokens`, all walked at once. A chunk is an affine
// map of the state, S -> M S + c, so a segment is one too. Three launches: `summary` walks each segment from zero for c and from the
// identity, without values, for M; combine (segments.cuh) turns these into the state at the end of every segment; `outputs` walks each
// segment from the state at its start. The first segment starts from the initial state and needs no M, the last no summary.
#pragma once

#include <braid/cuda/time_order.hpp>

#include <cstddef>
#include <cstdint>

namespace braid::cuda {

/// What a launch of the recurrence is for.
enum class Pass : unsigned char {
  whole,    ///< outputs and final states of whole sequences
  summary,  ///< c and M of every segment that another one follows
  outputs   ///< outputs and final states from the states at the segments' starts
};

/// Device pointers; null means absent. T is the type of v and o.
template <class T> struct RecurrenceArguments {
  const std::byte* records = nullptr;  ///< records (record.hpp) at the positions of `order`
  const T* v = nullptr;                ///< [T, HV, V]
  T* o = nullptr;                      ///< [T, HV, V]; null: states only
  const float* initial_state = nullptr;  ///< [N, HV, K, V], key-first; null: zero
  float* final_state = nullptr;          ///< [N, HV, K, V]; null: not wanted. May be the initial state's memory
  /// State after every `checkpoint_chunks` whole chunks: checkpoint j of sequence n (after (j + 1) * checkpoint_chunks chunks) is
  /// entry offsets[n] / (32 * checkpoint_chunks) + j of [T / (32 * checkpoint_chunks), HV, K, V]. Null: not wanted.
  float* checkpoints = nullptr;
  int checkpoint_chunks = 0;
  const Index* offsets = nullptr;  ///< [N + 1], device memory; null: one sequence of `tokens`
  Index tokens = 0;
  int sequences = 1, value_heads = 0, value_dim = 0;
  float scale = 1;

  TimeOrder order = {};  ///< with flags, a block walks a column of it
  /// Flags of the records (time_order.hpp): the kernels run side by side. Null: the preparation has ended before the first record is read.
  std::uint32_t* ready = nullptr;
  bool reuse_places = false;             ///< with flags: places of records are used again
  /// With flags: the states that a column takes over from the next one, [columns, V, K] in the order of a block's registers, and a flag for each warp.
  float* states = nullptr;
  std::uint32_t* state_flags = nullptr;

  Pass pass = Pass::whole;
  Index segment_tokens = 0;         ///< a multiple of 32; of `summary` and `outputs`
  float* segment_maps = nullptr;    ///< [segments, HV, K, K]: M[key out][key in]
  float* segment_states = nullptr;  ///< [segments, HV, K, V]: `summary` writes c, `outputs` reads the states at the segments' ends
};

/// What a block does in one go: 64 columns of the state for each of its warpgroups (values, or in `summary` also key columns of M) over some
/// tokens of a head of a sequence.
struct Walk {
  bool active = false;
  int sequence = 0, head = 0, tile = 0;             ///< tile: the first of the block's
  Index sequence_begin = 0, begin = 0, length = 0;  ///< tokens
  Index segment = 0;
  int record = 0;                  ///< position of the first chunk's record
  bool first = true, last = true;  ///< segment, or piece, of its sequence
  bool map = false;                ///< walks M: from the identity, without values
};
/// Blocks, of `tiles` tiles each, that a head of a sequence or segment has. Key tiles follow the V / 64 value tiles.
template <class T> BRAID_FN int blocks_of_head(const RecurrenceArguments<T>& args, int key_dim, int tiles) {
  return (args.value_dim + (args.pass == Pass::summary ? key_dim : 0)) / value_tile / tiles;
}
/// What is known of the walk of block b of the grid without looking at offsets: tile and head, and the sequence or the segment. It is the b % n -th of the n
/// blocks of head b / n % HV of sequence or segment b / n / HV.
template <class T> BRAID_FN Walk place_walk(const RecurrenceArguments<T>& args, Index block, int key_dim, int tiles) {
  const int blocks = blocks_of_head(args, key_dim, tiles);
  const Index pair = block / blocks, unit = pair / args.value_heads;
  Walk walk;
  walk.tile = static_cast<int>(block % blocks) * tiles;
  walk.head = static_cast<int>(pair % args.value_heads);
  walk.segment = unit;
  if (args.pass == Pass::whole) walk.sequence = static_cast<int>(unit);
  return walk;
}
/// The walk of block b of the grid.
template <class T> BRAID_FN Walk find_walk(const RecurrenceArguments<T>& args, Index block, int key_dim, int tiles) {
  Walk walk = place_walk(args, block, key_dim, tiles);
  const Index unit = walk.segment;
  if (args.pass == Pass::whole) {
    walk.active = true;
    walk.sequence_begin = walk.begin = args.offsets == nullptr ? 0 : args.offsets[unit];
    walk.length = (args.offsets == nullptr ? args.tokens : args.offsets[unit + 1]) - walk.begin;
    walk.record = args.order.position(first_slot(walk.begin, unit), walk.head);
    return walk;
  }
  const Unit at = find_unit(args.offsets, args.tokens, args.sequences, args.segment_tokens, unit);
  walk.sequence = at.sequence;
  walk.sequence_begin = at.begin;
  walk.begin = at.begin + at.number * args.segment_tokens;
  walk.first = at.number == 0;
  walk.last = walk.begin + args.segment_tokens >= at.end;
  walk.length = walk.last ? at.end - walk.begin : args.segment_tokens;
  walk.record = args.order.position(first_slot(at.begin, at.sequence) + at.number * args.segment_tokens / chunk_tokens, walk.head);
  const int value_tiles = args.value_dim / value_tile;
  walk.map = walk.tile >= value_tiles;
  if (walk.map) walk.tile -= value_tiles;
  walk.active = (walk.first || walk.length > 0) && !(args.pass == Pass::summary && (walk.last || (walk.first && walk.map)));
  return walk;
}
/// The piece that starts at a position, for the block that has the tiles from `tile` on. Without tokens, it is active only to give an empty sequence its state.
template <class T> BRAID_FN Walk find_piece(const RecurrenceArguments<T>& args, const TimeOrder::Piece& piece, int tile) {
  Walk walk;
  walk.sequence = piece.sequence, walk.head = piece.head, walk.tile = tile, walk.record = piece.first;
  walk.sequence_begin = piece.begin, walk.begin = piece.token(piece.first);
  const Index tokens = static_cast<Index>(piece.last - piece.first) * chunk_tokens, left = piece.end - walk.begin;
  walk.last = left <= tokens;
  walk.length = walk.last ? left : tokens;
  walk.first = piece.chunk == 0;
  walk.active = walk.first || walk.length > 0;
  return walk;
}

}  // namespace braid::cuda
