#!/bin/sh
# Runs inside the image once its packages are installed.
set -eu

useradd --create-home --shell /bin/bash --groups sudo mesh
chmod 0440 /etc/sudoers.d/mesh

# Nothing in the image may belong to one VM alone: names, keys and ids come
# with the seed, the machine id from the VM's UUID.
rm -f /etc/ssh/ssh_host_*
: > /etc/machine-id
: > /etc/hostname
printf '127.0.0.1\tlocalhost\n' > /etc/hosts
: > /etc/resolv.conf
printf '/dev/vda\t/\text4\tnoatime\t0\t1\n' > /etc/fstab
mkdir -p /var/log/journal

systemctl enable lab-seed.service
# Timers that would wake an emulated CPU for work a short-lived VM without
# internet never needs, and logins on consoles nobody sees.
systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-tmpfiles-clean.timer \
    getty@tty1.service serial-getty@ttyS0.service

cp /boot/vmlinuz-* /vmlinuz.lab
cp /boot/initrd.img-* /initrd.lab

# systemd would otherwise rebuild its caches on the first boot.
touch /etc/.updated /var/.updated
