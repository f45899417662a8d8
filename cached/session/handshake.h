// The first exchange on a session socket: who may mount what, and how. Everything in a Hello comes from an untrusted
// peer. Pure but for SendWelcome and SendRefusal.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cached/prefetch/pacer.h"
#include "cached/session/attributes.h"
#include "cached/session/credential_table.h"
#include "cached/session/session_server.h"
#include "common/ring/channel.h"
#include "common/ring/socket.h"
#include "common/status.h"
#include "proto/session.pb.h"

namespace mlcache::session {

// kFailedPrecondition names both protocol versions when they differ; kInvalidArgument what else is wrong.
Result<Hello> ParseHello(const std::string& bytes);

// kPermissionDenied with the user and the flag that would let it in. Root and the daemon's own user always may.
Status MayMount(const ring::PeerIdentity& peer, const SessionServerOptions& options);

// By whose rights the store is read for that mount: the daemon's own (an empty profile), for those who MayMount, or a
// profile of options.credentials_file that the user is listed for. Also refuses ?profile= of a store URL, which picks
// among the daemon's keys, to all but root and the daemon's own user.
Result<CredentialProfile> CredentialOf(const Hello& hello, const ring::PeerIdentity& peer,
                                       const SessionServerOptions& options);

// What is asked for that this daemon does not do: a writable mount, an option without meaning.
Status CheckOptions(const MountOptions& options);

// How the mount is read ahead (options that CheckOptions has let pass).
prefetch::PacerOptions PacerOptionsOf(const MountOptions& options);

// ml.datasetPath as a path of the volume, nothing without it. kInvalidArgument for what is no path below the mount, or
// names no directory; kNotFound when there is nothing. A store that does not answer now is no reason to refuse a mount.
Result<std::optional<std::string>> DatasetOf(const MountOptions& options, Volume& volume, Nanos max_age,
                                             const store::CallContext& context);

View ViewOf(const MountOptions& options, const VolumeOptions& volume);

// `directories`: where complete files may be opened by whoever may mount.
Status SendWelcome(int socket, const ring::DaemonChannel& channel, uint64_t generation,
                   const std::vector<cache::ObjectsDirectory>& directories);

// Best effort: the peer may be gone.
void SendRefusal(int socket, const Error& error);

}  // namespace mlcache::session
