#include <braid/cpu/context.hpp>
#include <braid/cpu/optimizer.hpp>
#include <braid/train/tasks/palindrome.hpp>
#include <braid/train/trainer.hpp>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <csignal>
#include <limits>
#include <sys/resource.h>

using namespace braid;
namespace fs = std::filesystem;

namespace {

constexpr Index vocab = 8;

/// Two factors of a table of logits for the next token, given this one: the smallest thing that trains.
struct Bigram {
  using T = float;
  static constexpr struct Config {
    Index vocab;
  } config{::vocab};

  Param<float> in{.shape = {vocab, 4}, .init_std = 0.5};
  Param<float> out{.shape = {vocab, 4}, .role = Role::embedding, .init_std = 0.5};
  ParamStorage<float> storage;
  Index poison_at = -1, calls = 0;

  template <class Ctx> Bigram(Ctx& ctx, Seed s) : storage(ctx.memory(), *this) { initialize(*this, s); }
  template <class V> void visit(V&& v) { v("in.weight", in), v("out.weight", out); }
  ParamStorage<float>& parameters() { return storage; }

  template <class Ctx> void forward(Ctx&, std::span<const Token> tokens, const Batch&, View<float, 2> logits) const {
    for (Index t = 0; t < logits.rows(); ++t)
      for (Index v = 0; v < vocab; ++v) logits(t, v) = logit(tokens[std::size_t(t)], v);
  }
  float logit(Token from, Index to) const {
    float sum = 0;
    for (Index i = 0; i < 4; ++i) sum += in.value[from * 4 + i] * out.value[to * 4 + i];
    return sum;
  }
  template <class Ctx> double gradients(Ctx&, std::span<const Token> tokens, std::span<const Token> targets, const Batch&) {
    if (calls++ == poison_at) return std::numeric_limits<double>::quiet_NaN();
    double loss = 0;
    float count = 0;
    for (Token t : targets) count += t >= 0;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      if (targets[t] < 0) continue;
      float p[vocab], sum = 0;
      for (Index v = 0; v < vocab; ++v) sum += p[v] = std::exp(logit(tokens[t], v));
      loss -= std::log(p[targets[t]] / sum) / count;
      for (Index v = 0; v < vocab; ++v)
        for (Index i = 0; i < 4; ++i) {
          const float d = (p[v] / sum - float(v == targets[t])) / count;
          in.grad[tokens[t] * 4 + i] += d * out.value[v * 4 + i];
          out.grad[v * 4 + i] += d * in.value[tokens[t] * 4 + i];
        }
    }
    return loss;
  }
};

/// After token t comes t + 1, round and round; each batch starts at a place of its own.
TokenBatch cycle(Index step) {
  Random random(seed(9), std::uint64_t(step));
  TokenBatch out{{}, {}, Batch({0, 3, 10})};
  for (int i = 0; i < 10; ++i) {
    const auto t = Token(random.below(vocab));
    out.tokens.push_back(t);
    out.targets.push_back(i % 3 ? (t + 1) % Token(vocab) : ignored);
  }
  return out;
}

struct Folder {
  fs::path path = fs::temp_directory_path() / ("braid-trainer-" + std::to_string(::getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
  fs::path operator/(const char* name) const { return path / name; }
};

std::vector<float> values(const Bigram& model) {
  return {model.storage.values(), model.storage.values() + model.storage.size()};
}
std::string contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
const Wsd schedule{.peak = 0.05, .warmup = 5, .steps = 60, .decay = 20};

}  // namespace

TEST_CASE("a model trains, logs and evaluates") {
  Folder folder;
  cpu::Context ctx;
  Bigram model(ctx, seed(1));
  const double before = evaluate(ctx, model, cycle, 4).accuracy();
  Trainer trainer(ctx, model, Muon{.weight_decay = 0}, {.steps = 200, .log = folder / "log.jsonl", .progress = false});
  Index calls = 0;
  trainer.run(cycle, Constant{0.05}, [&](auto& t, const StepReport& report) {
    CHECK(report.step == ++calls);
    CHECK(report.tokens == 10);
    if (report.step == 150) t.stop();
  });
  CHECK(trainer.steps() == 150);
  CHECK(before < 0.5);
  CHECK(evaluate(ctx, model, cycle, 4).accuracy() == 1);
  std::ifstream log(folder / "log.jsonl");
  Index lines = 0;
  for (std::string line; std::getline(log, line);) {
    const auto json = nlohmann::json::parse(line);
    CHECK(json["step"] == 10 * ++lines);
    CHECK(json["rate"] == 0.05);
  }
  CHECK(lines == 15);
}

TEST_CASE_TEMPLATE("an interrupted run ends with the same bits as one that was not", Recipe, AdamW, Muon) {
  Folder folder;
  cpu::Context ctx;
  auto options = [&](Index steps, const char* name) {
    return TrainOptions{.steps = steps, .save_every = 7, .checkpoint = folder / name, .progress = false};
  };
  Bigram whole(ctx, seed(1));
  Trainer uninterrupted(ctx, whole, Recipe{}, options(60, "whole"));
  CHECK_FALSE(uninterrupted.resume());
  uninterrupted.run(cycle, schedule);

  for (Index stop : {1, 23, 59}) {
    const std::string name = "part" + std::to_string(stop);
    Bigram first(ctx, seed(1));
    Trainer(ctx, first, Recipe{}, options(stop, name.c_str())).run(cycle, schedule);
    Bigram second(ctx, seed(77));  // other initial values: all must come from the file
    Trainer resumed(ctx, second, Recipe{}, options(60, name.c_str()));
    REQUIRE(resumed.resume());
    CHECK(resumed.steps() == stop);
    resumed.run(cycle, schedule);
    CHECK(values(second) == values(whole));
    CHECK(contents(folder / name.c_str()) == contents(folder / "whole"));
  }
}

TEST_CASE("a loss that is not a number stops the run; parameters and checkpoint stay those of the last good step") {
  Folder folder;
  cpu::Context ctx;
  auto options = [&] { return TrainOptions{.steps = 60, .save_every = 4, .checkpoint = folder / "c", .progress = false}; };
  Bigram model(ctx, seed(1)), good(ctx, seed(1));
  model.poison_at = 10;
  Trainer trainer(ctx, model, Muon{}, options());
  CHECK_THROWS_WITH_AS(trainer.run(cycle, schedule), doctest::Contains("training step 11: expected a finite loss"), Error);
  CHECK(trainer.steps() == 10);
  Trainer reference(ctx, good, Muon{}, {.steps = 8, .progress = false});
  reference.run(cycle, schedule);
  Bigram loaded(ctx, seed(5));
  Trainer back(ctx, loaded, Muon{}, options());
  CHECK(back.resume());
  CHECK(back.steps() == 8);
  CHECK(values(loaded) == values(good));

  // A gradient that is infinite under a finite loss.
  good.in.value[0] = std::numeric_limits<float>::infinity();
  const auto poisoned = values(good);
  CHECK_THROWS_WITH_AS(reference.step(cycle(0), 0.1), doctest::Contains("training step 9: expected a finite loss and gradient, found loss"), Error);
  CHECK(std::memcmp(poisoned.data(), good.storage.values(), poisoned.size() * sizeof(float)) == 0);
}

TEST_CASE("a bad checkpoint is refused and changes nothing") {
  Folder folder;
  cpu::Context ctx;
  Bigram model(ctx, seed(1));
  const fs::path path = folder / "c";
  Trainer trainer(ctx, model, Muon{}, {.steps = 3, .checkpoint = path, .progress = false});
  trainer.run(cycle, schedule);
  const std::string whole = contents(path);
  const auto before = values(model);
  auto refused = [&](const std::string& bytes, const char* why) {
    std::ofstream(path, std::ios::binary) << bytes;
    CHECK_THROWS_WITH_AS(trainer.resume(), doctest::Contains(why), Error);
    CHECK_THROWS_WITH_AS(trainer.resume(), doctest::Contains(path.c_str()), Error);
    CHECK(values(model) == before);
    CHECK(trainer.steps() == 3);
  };
  for (std::size_t cut : {std::size_t{0}, std::size_t{7}}) refused(whole.substr(0, cut), "expected a safetensors file of at least 8 bytes, found ");
  refused(whole.substr(0, 40), "expected a header within the file's 40 bytes, found a header length of ");
  for (std::size_t cut : {whole.size() / 2, whole.size() - 1}) refused(whole.substr(0, cut), "bytes of data, found [");
  refused("{\"step\": 3}, but no safetensors file at all", "expected a header of at most 100000000 bytes, found ");
  std::string marked = whole;  // the mark of another program
  marked.replace(marked.find("braid.training"), 14, "other.training");
  refused(marked, "expected a training checkpoint, format braid.training.1, found format other.training");
  std::string step = whole;
  step.replace(step.find("\"step\":\"3\"") + 8, 1, "x");
  refused(step, "expected a step >= 0, found x");

  std::ofstream(path, std::ios::binary) << whole;
  CHECK(trainer.resume());
  Bigram other(ctx, seed(1));
  Trainer adamw(ctx, other, AdamW{}, {.checkpoint = path, .progress = false});  // needs second moments that Muon has not
  CHECK_THROWS_WITH_AS(adamw.resume(), doctest::Contains("optimizer.second.in.weight"), Error);
  other.in.shape = {4, vocab};
  Trainer turned(ctx, other, Muon{}, {.checkpoint = path, .progress = false});
  CHECK_THROWS_WITH_AS(turned.resume(), doctest::Contains("expected shape [4, 8], found [8, 4]"), Error);
}

TEST_CASE("a full disk is an Error, and the last good checkpoint stays") {
  Folder folder;
  cpu::Context ctx;
  Bigram model(ctx, seed(1));
  const fs::path path = folder / "c";
  Trainer trainer(ctx, model, Muon{}, {.steps = 3, .checkpoint = path, .progress = false});
  trainer.run(cycle, schedule);
  const std::string good = contents(path);
  trainer.step(cycle(3), 0.1);

  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  for (rlim_t room : {rlim_t{0}, rlim_t{100}, rlim_t{good.size() - 1}}) {  // no file may grow beyond this
    const rlimit full{room, before.rlim_max};
    REQUIRE(setrlimit(RLIMIT_FSIZE, &full) == 0);
    CHECK_THROWS_WITH_AS(trainer.save(), doctest::Contains("room to write"), Error);
    setrlimit(RLIMIT_FSIZE, &before);
    CHECK(contents(path) == good);
    CHECK(std::distance(fs::directory_iterator(folder.path), {}) == 1);  // nothing half-written is left behind
  }
  std::signal(SIGXFSZ, handler);
  JsonLog log("/dev/full");
  CHECK_THROWS_WITH_AS(log.write({{"step", 1}}), doctest::Contains("/dev/full"), Error);
  CHECK_THROWS_WITH_AS(JsonLog((folder / "no" / "log").string()), doctest::Contains("no/log: expected a log file that can be written"), Error);
}

TEST_CASE("log lines are JSON whatever they hold") {
  Folder folder;
  const std::string path = folder / "log";
  {
    JsonLog log(path);
    log.write({{"loss", 0.1}, {"bad", std::nan("")}, {"name", "a \"quoted\"\\\nline"}, {"step", Index{1} << 60}});
  }
  JsonLog(path).write({});
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  const auto json = nlohmann::json::parse(line);
  CHECK(json["loss"] == 0.1);
  CHECK(json["bad"].is_null());
  CHECK(json["name"] == "a \"quoted\"\\\nline");
  CHECK(json["step"] == Index{1} << 60);
  std::getline(file, line);
  CHECK(line == "{}");
}

TEST_CASE("a line of progress") {
  CHECK(detail::progress_line(50, 100, 1.25, 12345, 75) ==
        "[============>           ] 50/100  loss 1.2500  12.3k tokens/s  1:15 left");
  CHECK(detail::progress_line(100, 100, 0, 0, 0) == "[========================] 100/100  loss 0.0000  0 tokens/s  0:00 left");
  CHECK(detail::clock_text(3723) == "1:02:03");
  CHECK(detail::short_count(999) == "999");
  CHECK(detail::short_count(1500) == "1.50k");
  CHECK(detail::short_count(999'499) == "999k");
  CHECK(detail::short_count(4'560'000) == "4.56M");
}

TEST_CASE("perplexity weighs every target alike") {
  struct Fixed {
    double loss(cpu::Context&, std::span<const Token>, std::span<const Token> targets, const Batch&) const {
      return targets.size() == 2 ? 1 : 4;
    }
  };
  cpu::Context ctx;
  const auto source = [](Index i) {
    return i == 0 ? TokenBatch{{0, 0}, {1, ignored}, Batch(2)} : TokenBatch{{0, 0, 0}, {1, 1, ignored}, Batch(3)};
  };
  CHECK(perplexity(ctx, Fixed{}, source, 2) == doctest::Approx(std::exp(3.0)));
}
