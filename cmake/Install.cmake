# cmake --install build/release [--prefix /usr]. With a prefix other than /usr, mount(8) does not find mount.mlcache,
# since it looks in /sbin alone.
include(GNUInstallDirs)
set(MLCACHE_UNIT_DIR lib/systemd/system CACHE STRING "Where systemd units go, below the prefix")

install(TARGETS mlcached mlcachectl mlcache-mount RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(CODE "
  file(MAKE_DIRECTORY \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_SBINDIR}\")
  file(CREATE_LINK ../${CMAKE_INSTALL_BINDIR}/mlcache-mount
       \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_SBINDIR}/mount.mlcache\" SYMBOLIC)")

# The units name the programs where this tree installs them.
foreach(unit mlcached.service mlcache-mount@.service)
  install(CODE "
    file(READ \"${PROJECT_SOURCE_DIR}/systemd/${unit}\" text)
    string(REPLACE \"=/usr/bin/mlcache\" \"=\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR}/mlcache\" text \"\${text}\")
    string(REPLACE \"/usr/share/doc/mlcache\" \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_DOCDIR}\" text \"\${text}\")
    file(WRITE \"${PROJECT_BINARY_DIR}/systemd/${unit}\" \"\${text}\")")
  install(FILES ${PROJECT_BINARY_DIR}/systemd/${unit} DESTINATION ${MLCACHE_UNIT_DIR})
endforeach()
install(FILES systemd/updatedb-prunefs.conf DESTINATION ${MLCACHE_UNIT_DIR}/plocate-updatedb.service.d RENAME mlcache.conf)
install(FILES systemd/sysusers.conf DESTINATION lib/sysusers.d RENAME mlcache.conf)
install(FILES systemd/tmpfiles.conf DESTINATION lib/tmpfiles.d RENAME mlcache.conf)
install(FILES systemd/mlcached.conf DESTINATION ${CMAKE_INSTALL_DATADIR}/mlcache)
install(DIRECTORY deploy/prometheus deploy/grafana DESTINATION ${CMAKE_INSTALL_DATADIR}/mlcache)
install(FILES python/mlcache_plan.py DESTINATION ${CMAKE_INSTALL_DATADIR}/mlcache/python)
install(FILES README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR})
