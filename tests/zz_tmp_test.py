import subprocess,sys,time,os,pytest,pathlib
@pytest.mark.parametrize("phase",["data","header"])
@pytest.mark.parametrize("engine",["uring","pread"])
@pytest.mark.parametrize("how",["","exit","_exit"])
def test_h(slow_mount,phase,engine,how):
    sys.path.insert(0,"/tmp/lt")
    from a import write
    write(slow_mount.source/"m",{f"a{i}":("U8",(1<<20,),os.urandom(1<<20)) for i in range(16)})
    t=time.time()
    p=subprocess.Popen([sys.executable,"/tmp/lt/hang.py",slow_mount.path/"m",slow_mount.control,phase,engine]+([how] if how else []),stdout=subprocess.PIPE,stderr=subprocess.STDOUT)
    try: p.wait(8); print("ended by itself",time.time()-t)
    except subprocess.TimeoutExpired:
        print("does not end",open(f"/proc/{p.pid}/status").read().split("\n")[2], open(f"/proc/{p.pid}/task/{p.pid}/stack").read()); slow_mount.release(); t=time.time(); p.wait(10); print("after release",time.time()-t)
    print(p.stdout.read().decode(), p.returncode)
