# make install
