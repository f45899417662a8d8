// What a sealed view is made of on this host's disk, in each tier that holds objects of it:
//   TIER/views/<id>/data/.mlcache-objects/<object>   hard links to object files: the data layer
//   TIER/views/<id>/image                            names and attributes (first tier): the metadata layer
// They outlive the daemon, as the view does. A view's files may go only when nobody has its image open any more, in
// whatever mount namespace: the daemon, who owns the image, can tell by asking for a lease on it. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cached/cache/object_links.h"
#include "cached/seal/erofs_image.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace mlcache::seal {

struct DataLayer {
  std::string path;  // of the directory that is the layer
  UniqueFd directory;
};

class ViewFiles {
 public:
  // Empty directories in every tier. `links` is borrowed; `tiers` are its tiers' directories, in order.
  static Result<std::unique_ptr<ViewFiles>> Create(cache::ObjectLinks& links, const std::vector<std::string>& tiers,
                                                   uint64_t id);

  // All views that an earlier run left, with their links adopted.
  static std::vector<std::unique_ptr<ViewFiles>> Load(cache::ObjectLinks& links, const std::vector<std::string>& tiers);

  ViewFiles(const ViewFiles&) = delete;
  ViewFiles& operator=(const ViewFiles&) = delete;
  ~ViewFiles();  // leaves everything where it is

  uint64_t id() const { return id_; }
  size_t links() const { return links_.size(); }

  // Links a complete object in; the place of its bytes for ErofsImage::AddFile. As ObjectLinks::Link.
  Result<std::string> Add(const cache::ObjectKey& key);

  // Writes the image and charges it to the first tier.
  Status Finish(ErofsImage& image);

  // For the keeper: the image, opened for reading, and the layers that hold something.
  Result<UniqueFd> OpenImage() const;
  Result<std::vector<DataLayer>> Layers() const;

  // Whether anybody but us has the image open: a mount of it, or a process about to mount it.
  bool InUse() const;

  // Removes everything. Only when it is not in use.
  void Remove();

 private:
  struct Place {
    std::string directory;  // TIER/views/<id>
    UniqueFd objects;       // …/data/.mlcache-objects
    bool used = false;
  };

  ViewFiles(cache::ObjectLinks& links, uint64_t id) : links_api_(links), id_(id) {}
  std::string ImagePath() const { return places_.front().directory + "/image"; }
  void AdoptLinks(size_t tier);

  cache::ObjectLinks& links_api_;
  const uint64_t id_;
  std::vector<Place> places_;  // one a tier
  std::vector<cache::ObjectLink> links_;
  std::unique_ptr<cache::Reservation> held_;  // for image and directories
};

}  // namespace mlcache::seal
