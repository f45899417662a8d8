#include "ctl/progress.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "common/units.h"

namespace mlcache::ctl {
namespace {

using std::chrono::nanoseconds;

double Seconds(nanoseconds elapsed) { return std::chrono::duration<double>(elapsed).count(); }

uint64_t PerSecond(uint64_t amount, nanoseconds elapsed) {
  const double seconds = Seconds(elapsed);
  return seconds > 0 ? static_cast<uint64_t>(static_cast<double>(amount) / seconds) : 0;
}

std::string Summary(const control::WarmupProgress& last, uint64_t failures, nanoseconds elapsed, bool metadata_only) {
  std::string text = metadata_only ? "warmed the metadata of " : "warmed ";
  text += WithCommas(last.files_done()) + " of " + WithCommas(last.files_total()) + " files";
  if (metadata_only) {
    text += " in " + WithCommas(last.directories()) + " directories";
  } else {
    text += ", " + WithCommas(last.bytes_done()) + " of " + WithCommas(last.bytes_total()) + " bytes cached, " +
            WithCommas(last.bytes_fetched()) + " fetched (" + FormatSize(PerSecond(last.bytes_fetched(), elapsed)) +
            "/s)";
  }
  return text + " in " + FormatSeconds(static_cast<uint64_t>(Seconds(elapsed))) + ", " + WithCommas(failures) +
         (failures == 1 ? " failure" : " failures");
}

class Bar final : public Progress {
 public:
  Bar(Console& console, bool metadata_only) : console_(console), metadata_only_(metadata_only) {}

  void Show(const control::WarmupProgress& progress, nanoseconds elapsed) override {
    console_.err << '\r' << ProgressLine(progress, elapsed, console_.columns) << "\033[K" << std::flush;
    drawn_ = true;
  }
  void Clear() override {
    if (drawn_) console_.err << "\r\033[K" << std::flush;
    drawn_ = false;
  }
  void Finish(const control::WarmupProgress& last, uint64_t failures, nanoseconds elapsed) override {
    Clear();
    console_.out << Summary(last, failures, elapsed, metadata_only_) << '\n';
  }

 private:
  Console& console_;
  const bool metadata_only_;
  bool drawn_ = false;
};

class JsonLines final : public Progress {
 public:
  explicit JsonLines(Console& console) : console_(console) {}

  void Show(const control::WarmupProgress& progress, nanoseconds elapsed) override { Print(progress, 0, elapsed); }
  void Clear() override {}
  void Finish(const control::WarmupProgress& last, uint64_t failures, nanoseconds elapsed) override {
    Print(last, failures, elapsed);
  }

 private:
  void Print(const control::WarmupProgress& progress, uint64_t failures, nanoseconds elapsed) {
    nlohmann::ordered_json line = {
        {"files_total", progress.files_total()},     {"files_done", progress.files_done()},
        {"files_failed", progress.files_failed()},   {"directories", progress.directories()},
        {"bytes_total", progress.bytes_total()},     {"bytes_done", progress.bytes_done()},
        {"bytes_fetched", progress.bytes_fetched()}, {"listing_done", progress.listing_done()},
        {"elapsed_seconds", Seconds(elapsed)},       {"done", progress.done()}};
    if (progress.done()) line["failures"] = failures;
    console_.out << line.dump() << std::endl;
  }

  Console& console_;
};

class SummaryOnly final : public Progress {
 public:
  SummaryOnly(Console& console, bool metadata_only) : console_(console), metadata_only_(metadata_only) {}

  void Show(const control::WarmupProgress& /*progress*/, nanoseconds /*elapsed*/) override {}
  void Clear() override {}
  void Finish(const control::WarmupProgress& last, uint64_t failures, nanoseconds elapsed) override {
    console_.out << Summary(last, failures, elapsed, metadata_only_) << '\n';
  }

 private:
  Console& console_;
  const bool metadata_only_;
};

}  // namespace

std::string ProgressLine(const control::WarmupProgress& progress, nanoseconds elapsed, size_t columns) {
  constexpr size_t kWidestBar = 30;
  const bool bytes = progress.bytes_total() > 0;
  const uint64_t whole = bytes ? progress.bytes_total() : progress.files_total();
  const uint64_t part = bytes ? progress.bytes_done() : progress.files_done();
  // Nothing found yet is not everything done.
  std::string text = "  " + (whole == 0 && !progress.listing_done() ? "0 %" : FormatPercent(part, whole)) + "  ";
  if (bytes) text += FormatSize(part) + " of " + FormatSize(whole) + ", ";
  text += WithCommas(progress.files_done()) + " of " + WithCommas(progress.files_total()) + " files";
  if (const uint64_t rate = PerSecond(progress.bytes_fetched(), elapsed); bytes && rate > 0) {
    text += ", " + FormatSize(rate) + "/s";
    // What is left to fetch is only known once the listing is.
    if (progress.listing_done() && whole > part) text += ", " + FormatSeconds((whole - part) / rate) + " left";
  }
  if (!progress.listing_done()) text += ", listing";
  if (text.size() + 12 <= columns) {
    const size_t width = std::min(kWidestBar, columns - text.size() - 3);
    const size_t filled =
        whole == 0
            ? 0
            : static_cast<size_t>(static_cast<double>(width) * static_cast<double>(part) / static_cast<double>(whole));
    text = "[" + std::string(std::min(filled, width), '#') + std::string(width - std::min(filled, width), '.') + "]" +
           text;
  }
  return text.substr(0, columns > 0 ? columns - 1 : 0);
}

Result<std::unique_ptr<Progress>> MakeProgress(const std::string& form, bool metadata_only, Console& console) {
  if (form == "none") return std::make_unique<SummaryOnly>(console, metadata_only);
  if (form == "json" || (form == "auto" && !console.err_is_terminal)) return std::make_unique<JsonLines>(console);
  if (form == "auto") return std::make_unique<Bar>(console, metadata_only);
  return Fail(Code::kInvalidArgument, "bad --progress '" + form + "': write auto, json or none");
}

}  // namespace mlcache::ctl
