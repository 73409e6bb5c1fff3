// Where the two kernels of prefill meet, on the host: tests of plans need no GPU.
#include <braid/cuda/time_order.hpp>

#include <algorithm>
#include <vector>

#include <doctest/doctest.h>

using namespace braid;

TEST_CASE("the order of time: every chunk of every head once, columns as long as each other, earlier pieces of a sequence before later ones") {
  const std::vector<Index> offsets{0, 70, 70, 101, 133, 433};
  const int sequences = 5, heads = 6;
  for (int columns : {1, 2, 4, 5, 6, 7, 20, 30}) {
    const auto order = cuda::TimeOrder::make(offsets.data(), offsets.back(), sequences, heads, columns);
    CHECK(order.items() >= order.positions());
    CHECK(order.items() - order.positions() < columns);
    std::vector<int> step(static_cast<std::size_t>(order.positions()), -1);  // at which a position is due
    for (int item = 0; item < order.items(); ++item)
      if (order.position(item) < order.positions()) step[static_cast<std::size_t>(order.position(item))] = item / columns;
    std::vector<std::vector<int>> due(static_cast<std::size_t>(sequences * heads));  // steps of the chunks of a sequence of a head
    for (int n = 0; n < sequences; ++n)
      for (int head = 0; head < heads; ++head)
        due[static_cast<std::size_t>(n * heads + head)].assign(static_cast<std::size_t>(cuda::chunks(offsets[static_cast<std::size_t>(n) + 1] - offsets[static_cast<std::size_t>(n)])), -1);
    for (int position = 0; position < order.positions();) {
      const cuda::TimeOrder::Piece piece = order.piece(position);
      CHECK(piece.first == position);
      CHECK(piece.first / order.length == (piece.last - 1) / order.length);  // in one column
      for (; position < piece.last; ++position) {
        CHECK(step[static_cast<std::size_t>(position)] >= 0);
        const cuda::TimeOrder::Piece same = order.piece(position);
        CHECK(same.first == piece.first);
        CHECK(same.chunk == piece.chunk);
        const Index begin = offsets[static_cast<std::size_t>(piece.sequence)], end = offsets[static_cast<std::size_t>(piece.sequence) + 1], token = piece.token(position);
        CHECK(piece.tokens(position) == std::clamp<Index>(end - token, 0, 32));
        if (piece.tokens(position) == 0) continue;
        int& chunk = due[static_cast<std::size_t>(piece.sequence * heads + piece.head)][static_cast<std::size_t>((token - begin) / 32)];
        CHECK(chunk == -1);
        chunk = step[static_cast<std::size_t>(position)];
      }
    }
    for (const auto& steps : due)
      for (std::size_t i = 0; i < steps.size(); ++i) {
        CHECK(steps[i] >= 0);
        if (i > 0 && static_cast<int>(steps.size()) + 1 <= order.length) CHECK(steps[i] > steps[i - 1]);  // else they wait
      }
  }
}

TEST_CASE("the order of time of one sequence: its offsets are not read") {
  const std::vector<Index> never{500, -1};
  for (int columns : {1, 2, 3}) {
    const auto order = cuda::TimeOrder::make(never.data(), 100, 1, 3, columns), plain = cuda::TimeOrder::make(nullptr, 100, 1, 3, columns);
    Index tokens = 0;
    for (int position = 0; position < order.positions(); ++position) {
      const cuda::TimeOrder::Piece piece = order.piece(position), same = plain.piece(position);
      CHECK(piece.token(position) == same.token(position));
      CHECK(piece.tokens(position) == same.tokens(position));
      tokens += piece.tokens(position);
    }
    CHECK(tokens == 3 * 100);
  }
}

TEST_CASE("places: a record goes where no other is still to be read; with a multiple of the columns, only its own column's can keep it waiting") {
  struct Case {
    int tokens, heads, columns, places;
  };
  for (const auto& [tokens, heads, columns, places] : {Case{700, 6, 6, 18}, {700, 6, 4, 8}, {1000, 5, 4, 4}, {64, 7, 5, 10}, {400, 1, 1, 4}, {700, 6, 4, 13}, {1000, 5, 4, 11},
                                                       {700, 7, 20, 33}}) {  // the last: its last column has two of eight steps
    const auto order = cuda::TimeOrder::make(nullptr, tokens, 1, heads, columns);
    std::vector<int> occupant(static_cast<std::size_t>(order.positions()), -1);  // of the place at a position
    int later = 0, shared = 0;
    for (int item = 0; item < order.items(); ++item) {
      const int position = order.position(item);
      if (position >= order.positions()) continue;
      const auto place = order.place(item, places);
      REQUIRE(place.position >= 0);
      REQUIRE(place.position < order.positions());
      REQUIRE(place.before < order.positions());
      CHECK(place.before == occupant[static_cast<std::size_t>(place.position)]);
      if (place.before >= 0 && places % columns == 0) CHECK(place.before / order.length == position / order.length);
      later += item >= places, shared += place.before >= 0;
      occupant[static_cast<std::size_t>(place.position)] = position;
      CHECK(order.place(item, 0).position == position);
    }
    CHECK(shared > 0);
    if (places % columns == 0) CHECK(shared == later);
  }
}
